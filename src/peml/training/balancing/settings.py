"""The ``training.balancing`` section of a config."""

from typing import Annotated, Literal

from pydantic import Field

from peml.settings import Settings


class BalancingSettings(Settings):
    """How the tasks' losses are weighted in a training step."""

    strategy: Literal["fixed", "running-mean", "uncertainty", "pcgrad"] = Field(
        "fixed",
        description="fixed: the weights below; running-mean: each task's loss divided by its "
        "running mean; uncertainty: learned weights (arXiv 1705.07115); pcgrad: conflicting "
        "gradients of tasks are projected (arXiv 2001.06782), at the cost of one backward pass "
        "per task.",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Task name: factor of its loss; 1 for tasks not named."
    )
    normalise: Literal["batch", "example"] = Field(
        "batch",
        description="batch: all batches of a step count equally, so examples in small batches "
        "weigh more; example: all examples count equally. They differ with "
        "training.accumulation, since long examples come in smaller batches.",
    )
    decay: float = Field(
        0.98, description="running-mean: weight of the old mean in each update.", ge=0, lt=1
    )
    bound: float = Field(
        10.0, description="running-mean: weights stay between 1 / bound and bound.", gt=1
    )
