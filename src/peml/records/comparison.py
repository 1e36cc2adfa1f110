"""``comparison.json`` as typed values.

``null``, NaN and infinity all read as None: they can't be shown or averaged.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from peml.records.record import FileRecord, Number, Record

Name = Annotated[str, Field(pattern=r"^\w[\w.+ -]*$")]  # of a file as well


class MethodRecord(Record):
    """A method at the size it was run with; ``off_budget`` is a share of the budget."""

    label: str
    method: str
    size: str = ""
    merging: str
    reason: str = ""
    needs_task_id: bool
    parameters: int | None = None
    off_budget: Number = None


class TaskRecord(Record):
    """A task of a suite."""

    name: str
    metric: str
    rows: int
    majority: Number = None
    majority_of: str = "train"


class CellRecord(Record):
    """One run: a method with a seed. ``status`` is finished, failed or missing."""

    seed: int
    folder: str
    status: str
    reason: str = ""
    flags: list[str] = []
    mean: Number = None
    tasks: dict[str, Number] = {}
    steps: int | None = None
    precision: str | None = None
    seconds: dict[str, Number] = {}
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None

    @property
    def notes(self) -> list[str]:
        """The notes of its results and of the cell, without duplicates."""
        said = any(self.reason in flag for flag in self.flags)
        return [*self.flags] if said or not self.reason else [self.reason, *self.flags]


class TaskScore(Record):
    """A method's score on a task, over the seeds that finished.

    Flags are reasons to doubt the score, notes are other remarks.
    """

    mean: Number = None
    deviation: Number = None
    seeds: int
    flags: list[str] = []
    notes: list[str] = []


class GroupRecord(Record):
    """A group of a suite's tasks."""

    tasks: int
    majority_mean: Number = None


class GroupScore(Record):
    """A method's score on a group of tasks, over the seeds that finished."""

    mean: Number = None
    deviation: Number = None


class IntervalRecord(Record):
    """A difference with its 95 % interval, both as fractions."""

    value: Number
    low: Number = None
    high: Number = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        if self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0


class DifferenceRecord(IntervalRecord):
    """A method's difference to the best baseline: for the mean, and for each task."""

    tasks: dict[str, IntervalRecord] = {}


class GridPoint(Record):
    """One learning-rate factor that was tried, scored on the development split."""

    factor: float
    mean: Number = None
    folder: str = ""
    reason: str = ""


class RowRecord(Record):
    """A method on a suite: means over its finished cells. Flags and notes are as in `TaskScore`."""

    label: str
    cells: list[CellRecord]
    tasks: dict[str, TaskScore] = {}
    groups: dict[str, GroupScore] = {}
    mean: Number = None
    deviation: Number = None
    difference: DifferenceRecord | None = None
    seconds: dict[str, Number] = {}
    peak_memory_bytes: Number = None
    trainable_parameters: Number = None
    latency: Number = None
    factor: Number = None
    grid: list[GridPoint] = []
    trials: int = 0
    tuned: dict[str, Any] = {}
    flags: list[str] = []
    notes: list[str] = []

    @property
    def finished(self) -> int:
        """The number of finished cells with a mean, which are the ones that count."""
        return len(self.finished_seeds)

    @property
    def finished_seeds(self) -> set[int]:
        """The seeds of those cells."""
        return {c.seed for c in self.cells if c.status == "finished" and c.mean is not None}

    @property
    def flagged(self) -> bool:
        """Whether the method's mean needs a caution."""
        return bool(self.flags) or self.finished < len(self.cells)

    @property
    def run_seconds(self) -> float | None:
        """Seconds of search and training of one run."""
        known = [self.seconds.get(phase) for phase in ("search", "train")]
        parts = [value for value in known if value is not None]
        return sum(parts) if parts else None


class SuiteRecord(Record):
    """All methods on one suite."""

    name: Name
    tasks: list[TaskRecord] = Field(min_length=1)
    average: str = "tasks"
    groups: dict[str, GroupRecord] = {}
    majority_mean: Number = None
    best_baseline: str | None = None
    rows: list[RowRecord] = Field(min_length=1)

    def row(self, label: str | None) -> RowRecord | None:
        """The row of a method; None if it has none."""
        return next((row for row in self.rows if row.label == label), None)

    def ranked(self) -> list[RowRecord]:
        """Rows that have a mean, best first."""
        known = [row for row in self.rows if row.mean is not None]
        return sorted(known, key=lambda row: -(row.mean or 0.0))


class TuningRecord(Record):
    """The learning-rate grid of each method, or the number of trials over its space."""

    factors: list[float]
    trials: int | None = None
    space: dict[str, Any] | None = None
    sampler: dict[str, Any] | None = None
    epochs: float | None = None
    seed: int | None = None


class ComparisonRecord(FileRecord):
    """``comparison.json``: all that the report shows."""

    FILE: ClassVar[str] = "comparison.json"
    THING: ClassVar[str] = "comparison"

    format: int = 1
    name: str
    model: str
    device: str = ""
    versions: dict[str, str] = {}
    commit: str | None = None
    seeds: list[int]
    focus: str | None = None
    match: str | None = None
    budget: int | None = None
    tolerance: Number = None
    equal: list[tuple[str, str]] = []
    tuning: TuningRecord | None = None
    methods: list[MethodRecord]
    suites: list[SuiteRecord] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_its_methods(self) -> Self:
        known = {method.label for method in self.methods}
        unknown = sorted({row.label for suite in self.suites for row in suite.rows} - known)
        if unknown:
            raise ValueError(f"rows of methods that are not listed: {', '.join(unknown)}")
        return self

    def method(self, label: str) -> MethodRecord:
        """The record of a method, by its row's label."""
        return next(method for method in self.methods if method.label == label)
