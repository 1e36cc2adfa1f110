"""The lines of ``metrics.jsonl``: what happened, without times, so that runs can be compared."""

from typing import Literal

from pydantic import Field

from peml.records.record import Record, Score

Weights = dict[str, dict[str, float]]
"""By decision and option: what a training step takes of the option, in the mean over its noise."""


class StepRecord(Record):
    """What one optimiser step did; every so many are logged.

    `loss` is that step's; `task_losses` are means since the last step that was a multiple of
    ``training.log_every``, `task_rows` the examples they are over; both are empty on other steps.
    They and `loss` are as the model gives them, unbalanced; `task_weights` is what the tasks'
    losses count after the step, empty where that never changes.
    """

    kind: Literal["step"] = "step"
    phase: str
    step: int
    epoch: float = 0.0
    loss: Score
    gradient_norm: Score
    learning_rates: dict[str, float] = {}
    tokens: int = Field(0, exclude=True)  # for the progress bar, not logged
    task_losses: dict[str, Score] = {}
    task_rows: dict[str, int] = {}
    task_weights: dict[str, Score] = {}


class Scores(Record):
    """A mean and the tasks' scores behind it."""

    mean: Score
    tasks: dict[str, Score]


class Evaluation(Record):
    """The development metrics after a step."""

    kind: Literal["development"] = "development"
    phase: str
    step: int
    mean: Score
    tasks: dict[str, Score]
    is_best: bool = Field(False, exclude=True)  # so far in its phase; not logged


class Mixing(Record):
    """What adaptive shares follow, and the rows of each task that they give the next epoch."""

    kind: Literal["mixing"] = "mixing"
    step: int
    epoch: int = 0
    losses: dict[str, Score] = {}
    factors: dict[str, float]
    rows: dict[str, int] = {}


class Decisions(Record):
    """The weights of all decisions after one step."""

    kind: Literal["decisions"] = "decisions"
    phase: str
    step: int
    temperature: float | None = None
    weights: Weights


class FreeWeights(Record):
    """The decisions' weights when they stopped moving, before any cool-down."""

    step: int
    weights: Weights
    by_weight: bool = True  # else scores make the choices


class Discretisation(Record):
    """The soft-to-discrete step: development scores before and after it.

    `guarded` are the decisions where a guard or the budget overruled the largest weight, `fitted`
    those of them that the budget did.
    """

    kind: Literal["discretise"] = "discretise"
    step: int
    soft: Scores
    hard: Scores
    gap: Score
    choices: dict[str, str]
    guarded: list[str] = []
    fitted: list[str] = []
    free: FreeWeights | None = None
