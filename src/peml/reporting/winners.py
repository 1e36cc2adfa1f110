"""What searches end with, over several runs: how often each option wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peml.errors import RunError
from peml.records import Discretisation, GenotypeRecord
from peml.reporting.run.outcomes import list_outcomes
from peml.reporting.run.results import RunRecord, load_run

_SKIP = "skip"


@dataclass
class Winners:
    """The choices of several searches over one space.

    Attributes:
        runs: Number of runs.
        options: Decision: option: in how many runs it was chosen.
        guarded: Decision: in how many runs a guard overruled the best option.
        undecided: Decision: in how many runs its weights were too near to each other to choose.
        collapsed: Names of the runs in which every cell is skip.
        unwarranted: ``run: cell`` of every skip that wasn't the option whose removal hurts most;
            only runs with scores are in it.
        scored: Number of runs with scores.
        gaps: Change of the mean development metric by discretisation, a run.
    """

    runs: int = 0
    options: dict[str, Counter[str]] = field(default_factory=dict)
    guarded: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    collapsed: list[str] = field(default_factory=list)
    unwarranted: list[str] = field(default_factory=list)
    scored: int = 0
    gaps: list[float | None] = field(default_factory=list)

    def operations(self) -> Counter[str]:
        """How many cells of all runs each operation won, most first."""
        cells = (count for name, count in self.options.items() if name.startswith("cell."))
        return sum(cells, Counter[str]())

    def markdown(self) -> str:
        """Tables: operations by cell, then the other decisions; what guards did below."""
        cells = [name for name in self.options if name.startswith("cell.")]
        lines = [
            f"| operation | {' | '.join(cells)} | all |",
            f"|---|{'--:|' * len(cells)}--:|",
        ]
        for operation, total in self.operations().most_common():
            counts = " | ".join(str(self.options[cell][operation]) for cell in cells)
            lines.append(f"| {operation} | {counts} | {total} |")
        lines += ["", f"| decision | chosen in how many of {self.runs} runs |", "|---|---|"]
        for name, options in self.options.items():
            if name not in cells:
                shares = ", ".join(f"{option} {count}" for option, count in options.most_common())
                lines.append(f"| {name} | {shares} |")
        gaps = [gap for gap in self.gaps if gap is not None]
        lines += [
            "",
            f"* every cell skip: {', '.join(self.collapsed) or 'in no run'}",
            f"* skips that were not the best by their scores ({self.scored} runs with scores): "
            f"{', '.join(self.unwarranted) or 'none'}",
            f"* overruled by a guard: {_counts(self.guarded)}",
            f"* undecided, in how many runs: {_counts(self.undecided)}",
            "* change of the development mean by discretisation: "
            f"{', '.join(f'{gap:+.4f}' for gap in gaps)}",
        ]
        return "\n".join(lines) + "\n"


def count_winners(folders: Sequence[Path]) -> Winners:
    """Reads finished runs and counts what their searches chose.

    Args:
        folders: Run folders of one method and search space.

    Raises:
        RunError: A run isn't finished or searched nothing.
    """
    winners = Winners()
    for folder in folders:
        run = load_run(folder)
        if run.genotype is None or run.history.discretise is None:
            raise RunError(
                f"{folder}: this run searched nothing",
                allowed="runs of a method with a search",
                action="leave the folder out",
            )
        _count(winners, run, run.history.discretise, run.genotype)
    return winners


def _count(
    winners: Winners, run: RunRecord, record: Discretisation, genotype: GenotypeRecord
) -> None:
    winners.runs += 1
    winners.gaps.append(record.gap)
    winners.guarded.update(record.guarded)
    winners.undecided.update(o.name for o in list_outcomes(run.history) if o.undecided)
    for name, option in record.choices.items():
        winners.options.setdefault(name, Counter())[option] += 1
    if all(cell == _SKIP for cell in genotype.cells):
        winners.collapsed.append(run.name)
    found_by = genotype.found_by if isinstance(genotype.found_by, dict) else {}
    scores = found_by.get("scores")
    if not isinstance(scores, dict):
        return
    winners.scored += 1
    for number, cell in enumerate(genotype.cells):
        of_cell = scores.get(f"cell.{number}", {})
        if cell == _SKIP and of_cell and max(of_cell, key=of_cell.__getitem__) != _SKIP:
            winners.unwarranted.append(f"{run.name}: cell.{number}")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "nothing"
