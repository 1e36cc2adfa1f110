"""The lines of ``metrics.jsonl``: events without times, so that two runs can be compared."""

import math
from typing import Literal

from pydantic import Field

from peml.records.record import Record, Score

Weights = dict[str, dict[str, float]]
"""By decision and option: what a training step takes of the option, in the mean over its noise."""


class StepRecord(Record):
    """One optimiser step; only every n-th step is logged.

    `loss` is the loss of this step. `task_losses` are means since the last multiple of
    ``training.log_every``, over `task_rows` examples; both are empty on other steps. All are losses
    of the model before balancing. `task_weights` are the weights of the tasks' losses after the
    step; empty if these never change.
    """

    kind: Literal["step"] = "step"
    phase: str
    step: int
    epoch: float = 0.0
    loss: Score = math.nan
    gradient_norm: Score = math.nan
    learning_rates: dict[str, float] = {}
    tokens: int = Field(0, exclude=True)  # for the progress bar, not logged
    task_losses: dict[str, Score] = {}
    task_rows: dict[str, int] = {}
    task_weights: dict[str, Score] = {}


class Scores(Record):
    """The mean and the scores of the tasks."""

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


class Decisions(Record):
    """The weights of all decisions after a step."""

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
    """The discretisation step: development scores before and after it.

    `guarded` are the decisions where a guard or the budget overruled the largest weight; `fitted`
    are those of the budget.
    """

    kind: Literal["discretise"] = "discretise"
    step: int
    soft: Scores
    hard: Scores
    gap: Score
    choices: dict[str, str]
    guarded: list[str] = []
    fitted: list[str] = []
    free: FreeWeights
