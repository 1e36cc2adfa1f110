"""The base class of the balancing strategies: fixed weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.data.mixing import task_weights
from peml.distributed import ALONE
from peml.training.balancing.settings import BalancingSettings


@dataclass(frozen=True)
class BalancingGroup:
    """Learnt parameters of a strategy, in the form that `build_optimizer` takes."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Balancing(nn.Module):
    """Computes a step's gradients from the examples' losses, with fixed weights per task.

    ``tasks`` are names in the order of the task ids.

    In each step the loop calls `shares` once, `backward` after each forward pass, and `finish`
    before clipping. Parameters and buffers are saved in checkpoints, not in exported models.

    Attributes:
        world: The processes that compute the batches of a step.

    Raises:
        ConfigError: A weight names a task that doesn't exist.
    """

    weights: Tensor
    passes_backward_once: ClassVar[bool] = True
    """Whether each batch has one backward pass, whatever tasks it holds."""

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.tasks = tuple(tasks)
        self.seed = seed
        self.world = ALONE
        weights = task_weights(settings.weights, tasks, "training.balancing.weights")
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def shares(self, examples: Sequence[int]) -> list[float]:
        """Weight of each batch of a step; the weights add up to 1."""
        if self.settings.normalise == "batch":
            return [1 / len(examples)] * len(examples)
        total = sum(examples)
        return [count / total for count in examples]

    def balance(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Balanced losses, (examples,).

        Args:
            losses: Loss of each example, (examples,).
            tasks: Index of each example's task, (examples,).
        """
        return losses * self.weights[tasks]

    def backward(
        self,
        output: Any,
        batch: TaskBatch,
        share: float,
        parameters: Sequence[nn.Parameter],
        backward: Callable[[Tensor], None],
    ) -> None:
        """Adds one batch's part to the gradients of the trained parameters.

        ``share`` is the batch's weight in the step; ``backward`` computes gradients of a scalar.
        """
        loss = self.balance(output.losses, batch.tasks).mean()
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
        backward(share * loss)

    def finish(self, parameters: Sequence[nn.Parameter], step: int, tasks: Sequence[int]) -> None:
        """Completes the gradients after the last batch of a step, before they are clipped.

        Steps count from 0; tasks are in order of first occurrence.
        """
        self.world.sum_gradients(parameters)

    def groups(self) -> list[BalancingGroup]:
        """Learnt parameters of the strategy."""
        return []

    def moving_weights(self) -> dict[str, float]:
        """The current weights of the tasks, for the log; empty if they never change."""
        return {}
