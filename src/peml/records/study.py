"""``study.json`` as typed values.

``null``, NaN and infinity all read as None: they can't be shown.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from peml.records.record import FileRecord, Number, Record
from peml.records.run import TuningCost

State = Literal["finished", "pruned", "failed", "running"]


class ObjectiveRecord(Record):
    """An objective of the study; ``direction`` is maximize or minimize."""

    name: str
    title: str
    direction: str


class SpaceRecord(Record):
    """The values tried for one path of the config: choices, or a range, possibly logarithmic."""

    log: bool = False
    choices: list[Any] | None = None


class TrialRecord(Record):
    """One trial.

    `objectives` are in the study's order; of a pruned trial, the value is the last development
    mean. `values` are by path into the run config, `reports` the development means by percent of
    the trial's steps. `folder` is the run folder; empty if another driver has it. `place` is the
    driver's machine and path, `driver` its id. The costs are None while the trial runs.
    """

    number: int
    state: State
    objectives: list[Number] = []
    values: dict[str, Any] = {}
    seconds: Number = None
    tokens: int | None = None
    parameters: int | None = None
    reports: dict[int, Number] = {}
    reason: str = ""
    folder: str = ""
    place: str = ""
    driver: str = Field("", exclude=True)

    @property
    def mean(self) -> float | None:
        """The mean on the development splits; for a pruned trial, the last one."""
        return self.objectives[0] if self.objectives else None


class StudyRecord(FileRecord):
    """``study.json``: all that the report shows. ``best`` holds trial numbers, best first."""

    FILE: ClassVar[str] = "study.json"
    THING: ClassVar[str] = "study"

    format: int = 1
    name: str
    model: str
    method: str
    device: str = ""
    versions: dict[str, str] = {}
    commit: str | None = None
    objectives: list[ObjectiveRecord] = Field(min_length=1)
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    budget: dict[str, Any]
    space: dict[str, SpaceRecord]
    trials: list[TrialRecord]
    best: list[int]
    importance: dict[str, float]
    cost: TuningCost

    @model_validator(mode="after")
    def _knows_its_best(self) -> Self:
        unknown = sorted(set(self.best) - {trial.number for trial in self.trials})
        if unknown:
            raise ValueError(f"best trials that are not listed: {', '.join(map(str, unknown))}")
        return self

    def in_state(self, *states: str) -> list[TrialRecord]:
        """The trials in one of these states."""
        return [trial for trial in self.trials if trial.state in states]

    def front(self) -> list[TrialRecord]:
        """The best trial, or the Pareto front sorted by mean, best first."""
        by_number = {trial.number: trial for trial in self.trials}
        return [by_number[number] for number in self.best]
