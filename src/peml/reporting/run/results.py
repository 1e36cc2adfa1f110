"""Reads a run folder for reports."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peml.errors import RunError
from peml.problems import shown
from peml.records.metrics import Decisions, Discretisation, Evaluation, StepRecord
from peml.records.plan import Plan
from peml.records.record import DAMAGED, parse_json, read_text
from peml.records.run import Environment, GenotypeRecord, Results


@dataclass(frozen=True, slots=True)
class History:
    """The records in ``metrics.jsonl``, in the order they were written.

    A run without a search has no decisions and no `discretise`, the step from the soft network to
    the chosen one.
    """

    steps: list[StepRecord] = field(default_factory=list)
    decisions: list[Decisions] = field(default_factory=list)
    development: list[Evaluation] = field(default_factory=list)
    discretise: Discretisation | None = None

    def phases(self) -> dict[str, tuple[int, int]]:
        """First and last step of each phase that trained, in order."""
        spans: dict[str, tuple[int, int]] = {}
        for record in self.steps:
            first, last = spans.get(record.phase, (record.step, record.step))
            spans[record.phase] = (min(first, record.step), max(last, record.step))
        return spans


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run, read from its folder; `evaluated` is the time of ``results.json``, in UTC."""

    folder: Path
    evaluated: datetime
    config: str
    environment: Environment
    plan: Plan
    results: Results
    history: History
    genotype: GenotypeRecord | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


def load_run(folder: Path) -> RunRecord:
    """Reads everything a report needs; a missing or wrong file is a `RunError`."""
    if not folder.is_dir():
        raise RunError(
            f"{folder}: there is no such run folder",
            allowed="a folder that `peml fit` has written",
            action="check the path",
        )
    results = Results.read(folder)
    return RunRecord(
        folder=folder,
        evaluated=datetime.fromtimestamp((folder / Results.FILE).stat().st_mtime, UTC),
        config=read_text(folder / "config.yaml"),
        environment=Environment.read(folder),
        plan=Plan.read(folder),
        results=results,
        history=load_history(folder),
        genotype=GenotypeRecord.find(folder),
    )


def load_history(folder: Path) -> History:
    """Reads ``metrics.jsonl``; unknown kinds of records are ignored."""
    history = History()
    discretise = None
    for where, line in _lines(folder / "metrics.jsonl"):
        match line.get("kind"):
            case "step":
                history.steps.append(StepRecord.check(where, line))
            case "decisions":
                history.decisions.append(Decisions.check(where, line))
            case "development":
                history.development.append(Evaluation.check(where, line))
            case "discretise":
                discretise = Discretisation.check(where, line)
    return replace(history, discretise=discretise)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        where = f"{path}, line {number}"
        line = parse_json(where, text)
        if not isinstance(line, dict):
            raise RunError(
                f"{where}: {shown(line)} is not a record",
                allowed="one JSON object per line",
                action=DAMAGED,
            )
        yield where, line
