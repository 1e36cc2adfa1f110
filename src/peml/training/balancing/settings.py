"""The ``training.balancing`` section of a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from peml.settings import Settings


class BalancingSettings(Settings):
    """How the tasks' losses are weighted in a training step."""

    strategy: Literal["fixed", "running-mean", "uncertainty", "pcgrad"] = Field(
        "fixed",
        description="fixed: the weights below; running-mean: each task's loss relative to its "
        "running mean; uncertainty: learned weights (arXiv 1705.07115); pcgrad: conflicting "
        "gradients of tasks are projected (arXiv 2001.06782); costs one backward pass per task.",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Task: factor of its loss; 1 for tasks not named.",
    )
    normalise: Literal["batch", "example"] = Field(
        "batch",
        description="batch: each batch of a step counts the same; example: each example does. "
        "They differ with training.accumulation, since long examples come in smaller batches.",
    )
    decay: float = Field(
        0.98, description="running-mean: weight of the old mean at each update.", ge=0, lt=1
    )
    bound: float = Field(
        10.0, description="running-mean: weights stay between 1 / bound and bound.", gt=1
    )
