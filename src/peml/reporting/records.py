"""What a run folder's files say, as typed values.

Unknown keys are ignored here, on purpose: a report written by this version must still open a
folder to which a later version added a field. Missing or malformed ones are refused.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "Classes",
    "Cost",
    "DecisionsRecord",
    "DevelopmentRecord",
    "DiscretiseRecord",
    "Environment",
    "FreeRecord",
    "GenotypeRecord",
    "GroupMeans",
    "LeakageEntry",
    "Means",
    "MixingRecord",
    "Plan",
    "PlannedTask",
    "Record",
    "Results",
    "Scores",
    "SkippedTask",
    "StepRecord",
    "TaskResult",
    "TuningCost",
]


def _null_is_nan(value: Any) -> Any:
    """Strict JSON has no NaN; writers that keep to it put null."""
    return math.nan if value is None else value


_OFF = "_off"


def _by_part(scores: Any) -> Any:
    """``{part}_off`` -> score, by the part's name; LoRA, which many methods share, comes last."""
    if not isinstance(scores, dict):
        return scores
    named = {name.removesuffix(_OFF): value for name, value in scores.items()}
    return dict(sorted(named.items(), key=lambda item: item[0] == "lora"))


Score = Annotated[float, BeforeValidator(_null_is_nan)]
"""A number that may be NaN: a diverged task is shown as such, not refused."""


class Record(BaseModel):
    """Base of what is read from a file: extra keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Classes(Record):
    """How a classification went: each label's F1, and counts by (right, predicted) label."""

    labels: list[str]
    f1: list[float]
    confusion: list[list[int]]

    @property
    def support(self) -> list[int]:
        """Number of rows of each label."""
        return [sum(row) for row in self.confusion]


class TaskResult(Record):
    """One task's line in ``results.json``; scores as fractions, on the reported split.

    ``low`` and ``high`` bound the value's 95 % interval over rows; runs of before have none.
    ``classes`` tells a classification label by label; ``notes`` say what to know about how a
    task was scored.
    ``without`` holds the keys that end in ``_off``: the score with a part switched off, by the
    part's name.
    """

    metric: str
    value: Score
    low: float | None = None
    high: float | None = None
    all: dict[str, Score] = {}
    majority: Score | None = None
    majority_of: str = "train"
    without: dict[str, Score] = {}
    rows: int
    classes: Classes | None = None
    notes: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _gather_ablations(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        scores = {name: value for name, value in data.items() if name.endswith(_OFF)}
        kept = {name: value for name, value in data.items() if name not in scores}
        return kept | {"without": _by_part(scores)}


class TuningCost(Record):
    """What finding a run's settings has cost, in other runs."""

    trials: int
    seconds: float
    tokens: int


class Cost(Record):
    """What a run used: seconds, tokens and steps of each phase, memory in bytes."""

    seconds: dict[str, float]
    tokens: dict[str, int] = {}
    steps: dict[str, int] = {}
    peak_memory_bytes: int | None = None
    trainable_parameters: dict[str, int]
    total_trainable_parameters: int
    tuning: TuningCost | None = None


class Means(Record):
    """Means over tasks; ``ablation_means`` is by the name of the part switched off."""

    mean: Score
    low: float | None = None
    high: float | None = None
    majority_mean: Score | None = None
    ablation_means: Annotated[dict[str, Score], BeforeValidator(_by_part)] = {}


class GroupMeans(Means):
    """Means over the tasks of a group."""

    tasks: list[str]


class SavedModel(Record):
    """How near the saved model's scores are to the trained one's, on so many reported rows."""

    rows: int
    largest_difference: float
    tolerance: float

    @property
    def sentence(self) -> str:
        """The same, for reports."""
        return (
            f"The saved model, read back from disk, answers {self.rows:,} rows as the trained one "
            f"did: scores differ by at most {self.largest_difference:.0e} x (1 + the score); "
            f"{self.tolerance:g} would be accepted."
        )


class Results(Means):
    """``results.json``: what evaluation found on the reported split.

    ``merging`` is ``once``, ``per task`` or ``never``; ``average`` says what counts alike in the
    mean, ``tasks`` or ``rows``.
    """

    format: int
    method: str
    model: str
    seed: int
    tasks: dict[str, TaskResult] = Field(min_length=1)
    average: str = "tasks"
    groups: dict[str, GroupMeans] = {}
    merging: str | None = None
    needs_task_id: bool = False
    export: SavedModel | None = None
    cost: Cost


class PlannedTask(Record):
    """One task of the plan, with the rows of its splits."""

    name: str
    type: str
    train: int
    development: int
    reported: int
    metric: str
    cut: int = 0  # rows longer than the model allows
    cut_reported: int | None = None  # those of them that are reported; older plans don't say


class SkippedTask(Record):
    """A task left out, and why."""

    name: str
    reason: str


class LeakageEntry(Record):
    """Rows of one task's evaluation split that stand in a task's training split."""

    evaluation: str
    split: str
    train: str
    rows: int
    evaluation_rows: int | None = None  # of the whole split; older plans don't say
    anywhere: int | None = None  # rows that are in any training split; likewise


class Plan(Record):
    """``plan.json``: what the run set out to do."""

    tasks: list[PlannedTask]
    skipped: list[SkippedTask] = []
    leakage: list[LeakageEntry] = []
    leakage_action: str = "report"
    leakage_dropped: dict[str, int] = {}
    max_length: int | None = None
    padding: float | None = None
    steps: dict[str, int] = {}

    @property
    def trains(self) -> bool:
        """Whether anything is trained; plans that don't say so are of runs that train."""
        return not self.steps or any(self.steps.values())


class Environment(Record):
    """``environment.json``: versions, device and commit of the run."""

    versions: dict[str, str] = {}
    device: str = ""
    commit: str | None = None
    python: str = ""


class GenotypeRecord(Record):
    """``genotype.json``: the network that makes the prefix, as far as a report draws it."""

    cells: list[str]
    length: int
    layers: list[bool]
    head: str
    head_rank: int | None = None
    width: int
    shape: dict[str, Any] = {}
    found_by: Any = None

    @property
    def at_input(self) -> bool:
        """Whether the prefix stands in front of the input embeddings."""
        return self.shape.get("placement") == "input"


class StepRecord(Record):
    """One optimiser step."""

    phase: str
    step: int
    loss: Score
    gradient_norm: Score | None = None
    task_rows: dict[str, int] = {}  # drawn since the record before
    task_weights: dict[str, Score] = {}  # of the tasks' losses, where they move


class MixingRecord(Record):
    """What adaptive shares are multiplied with after an evaluation."""

    step: int
    factors: dict[str, float]


class DecisionsRecord(Record):
    """The weights of all decisions at one step."""

    phase: str
    step: int
    temperature: float | None = None
    weights: dict[str, dict[str, float]]


class Scores(Record):
    """A mean and the tasks' scores behind it."""

    mean: Score
    tasks: dict[str, Score]


class DevelopmentRecord(Scores):
    """The development split, scored at one step."""

    phase: str
    step: int


class FreeRecord(Record):
    """The decisions' weights when they stopped moving, before any cool-down."""

    step: int
    weights: dict[str, dict[str, float]]
    by_weight: bool = True  # else the choices were made by scores


class DiscretiseRecord(Record):
    """The soft-to-discrete step: development scores before and after it."""

    step: int
    soft: Scores
    hard: Scores
    gap: Score
    choices: dict[str, str]
    guarded: list[str] = []
    fitted: list[str] = []  # those of them that were overruled for the budget
    free: FreeRecord | None = None  # runs of before don't say
