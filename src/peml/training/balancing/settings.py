"""The ``training.balancing`` section of a config."""

from typing import Annotated, Literal

from pydantic import Field

from peml.settings import Settings


class BalancingSettings(Settings):
    """How the tasks' losses are weighted in a training step."""

    strategy: Literal["fixed", "running-mean", "uncertainty", "pcgrad"] = "fixed"
    """fixed: the weights below; running-mean: each task's loss divided by its running mean;
    uncertainty: learned weights (arXiv 1705.07115); pcgrad: conflicting gradients of tasks are
    projected (arXiv 2001.06782), at the cost of one backward pass per task."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Task name: factor of its loss; 1 for tasks not named."""
    normalise: Literal["batch", "example"] = "batch"
    """batch: all batches of a step count equally, so examples in small batches weigh more; example:
    all examples count equally. They differ with training.accumulation, since long examples come in
    smaller batches."""
    decay: float = Field(0.98, ge=0, lt=1)
    """running-mean: weight of the old mean in each update."""
    bound: float = Field(10.0, gt=1)
    """running-mean: weights stay between 1 / bound and bound."""
