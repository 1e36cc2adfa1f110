"""What a run folder's files say, as typed values.

Unknown keys are ignored here, on purpose: a report written by this version must still open a
folder to which a later version added a field. Missing or malformed ones are refused.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Cost",
    "DecisionsRecord",
    "DevelopmentRecord",
    "DiscretiseRecord",
    "Environment",
    "GenotypeRecord",
    "LeakageEntry",
    "Plan",
    "PlannedTask",
    "Results",
    "Scores",
    "SkippedTask",
    "StepRecord",
    "TaskResult",
]


def _null_is_nan(value: Any) -> Any:
    """Strict JSON has no NaN; writers that keep to it put null."""
    return math.nan if value is None else value


Score = Annotated[float, BeforeValidator(_null_is_nan)]
"""A number that may be NaN: a diverged task is shown as such, not refused."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TaskResult(_Record):
    """One task's line in ``results.json``; scores as fractions, on the reported split."""

    metric: str
    value: Score
    all: dict[str, Score] = {}
    majority: Score | None = None
    prefix_off: Score | None = None
    lora_off: Score | None = None
    rows: int


class Cost(_Record):
    """What a run used: seconds, tokens and steps of each phase, memory in bytes."""

    seconds: dict[str, float]
    tokens: dict[str, int] = {}
    steps: dict[str, int] = {}
    peak_memory_bytes: int | None = None
    trainable_parameters: dict[str, int]
    total_trainable_parameters: int


class Results(_Record):
    """``results.json``: what evaluation found on the reported split."""

    format: int
    method: str
    model: str
    seed: int
    tasks: dict[str, TaskResult] = Field(min_length=1)
    mean: Score
    majority_mean: Score | None = None
    ablation_means: dict[str, Score] = {}
    cost: Cost


class PlannedTask(_Record):
    """One task of the plan, with the rows of its splits."""

    name: str
    type: str
    train: int
    development: int
    reported: int
    metric: str
    cut: int = 0  # texts longer than the model allows


class SkippedTask(_Record):
    """A task left out, and why."""

    name: str
    reason: str


class LeakageEntry(_Record):
    """Rows of one task's evaluation split that stand in a task's training split."""

    evaluation: str
    split: str
    train: str
    rows: int


class Plan(_Record):
    """``plan.json``: what the run set out to do."""

    tasks: list[PlannedTask]
    skipped: list[SkippedTask] = []
    leakage: list[LeakageEntry] = []
    leakage_action: str = "report"
    leakage_dropped: dict[str, int] = {}
    padding: float | None = None


class Environment(_Record):
    """``environment.json``: versions, device and commit of the run."""

    versions: dict[str, str] = {}
    device: str = ""
    commit: str | None = None
    python: str = ""


class GenotypeRecord(_Record):
    """``genotype.json``: the network that makes the prefix, as far as a report draws it."""

    cells: list[str]
    length: int
    layers: list[bool]
    head: str
    head_rank: int | None = None
    width: int
    found_by: Any = None


class StepRecord(_Record):
    """One optimiser step."""

    phase: str
    step: int
    loss: Score
    gradient_norm: Score | None = None


class DecisionsRecord(_Record):
    """The weights of all decisions at one step."""

    phase: str
    step: int
    temperature: float | None = None
    weights: dict[str, dict[str, float]]


class Scores(_Record):
    """A mean and the tasks' scores behind it."""

    mean: Score
    tasks: dict[str, Score]


class DevelopmentRecord(Scores):
    """The development split, scored at one step."""

    phase: str
    step: int


class DiscretiseRecord(_Record):
    """The soft-to-discrete step: development scores before and after it."""

    step: int
    soft: Scores
    hard: Scores
    gap: Score
    choices: dict[str, str]
    guarded: list[str] = []
