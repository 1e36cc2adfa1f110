"""What ``study.json`` says, as typed values.

``null``, NaN and infinity all read as None here: nothing that can be shown.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from peml.reporting.reading import Reader
from peml.reporting.records import Record

__all__ = ["ObjectiveRecord", "SpaceRecord", "StudyRecord", "TrialRecord", "load_study_record"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]


class ObjectiveRecord(Record):
    """What trials are judged by; ``direction`` is maximize or minimize."""

    name: str
    title: str
    direction: str


class SpaceRecord(Record):
    """What was tried at one path: choices, or a range that may be logarithmic."""

    log: bool = False
    choices: list[Any] | None = None


class TrialRecord(Record):
    """One trial. ``state`` is finished, pruned, failed or running.

    ``objectives`` of a pruned trial hold the last development mean; ``reports`` the development
    means by percent of the trial's steps.
    """

    number: int
    state: str
    objectives: list[Number] = Field(default_factory=list)
    values: dict[str, Any] = Field(default_factory=dict)
    seconds: Number = None
    tokens: int | None = None
    parameters: int | None = None
    reports: dict[int, Number] = Field(default_factory=dict)
    reason: str = ""
    folder: str = ""

    @property
    def mean(self) -> float | None:
        """Development mean; the last one of a pruned trial."""
        return self.objectives[0] if self.objectives else None


class CostRecord(Record):
    """What all trials have cost together."""

    trials: int
    seconds: float
    tokens: int


class StudyRecord(Record):
    """``study.json``: everything the report says. ``best`` holds trial numbers, the best first."""

    format: int
    name: str
    model: str
    method: str
    device: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    objectives: list[ObjectiveRecord] = Field(min_length=1)
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    budget: dict[str, Any]
    space: dict[str, SpaceRecord]
    trials: list[TrialRecord]
    best: list[int]
    importance: dict[str, float]
    cost: CostRecord

    def in_state(self, *states: str) -> list[TrialRecord]:
        """Trials in one of these states."""
        return [trial for trial in self.trials if trial.state in states]

    def front(self) -> list[TrialRecord]:
        """The best trial, or the Pareto front, the best mean first."""
        by_number = {trial.number: trial for trial in self.trials}
        return [by_number[number] for number in self.best]


def load_study_record(folder: Path) -> StudyRecord:
    """Reads ``study.json``.

    Raises:
        RunError: It is missing, malformed or of another format.
    """
    return Reader("peml tune", "study").read(folder / "study.json", StudyRecord, version=1)
