"""What every way of balancing the tasks' losses has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.data.mixing import task_weights
from peml.training.balancing.settings import BalancingSettings


@dataclass(frozen=True)
class BalancingGroup:
    """Parameters of the balancing itself, as `build_optimizer` wants them."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Balancing(nn.Module):
    """Turns the examples' losses of a step into gradients; this one by fixed weights.

    In each step the loop asks for `shares` once, calls `backward` after each forward pass, and
    `finish` before it clips. Parameters and buffers are saved with the checkpoints and belong to
    no exported model.

    Args:
        settings: Weights and normalisation.
        tasks: Names in the order of the task ids.
        seed: Of whatever is drawn.

    Raises:
        ConfigError: A weight is for a task that isn't there.
    """

    weights: Tensor

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.tasks = tuple(tasks)
        self.seed = seed
        weights = task_weights(settings.weights, tasks, "training.balancing.weights")
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def shares(self, batches: Sequence[TaskBatch]) -> list[float]:
        """What each batch of a step counts; they add up to 1."""
        if self.settings.normalise == "batch":
            return [1 / len(batches)] * len(batches)
        total = sum(batch.examples for batch in batches)
        return [batch.examples / total for batch in batches]

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
        """Adds one batch's part to the gradients.

        Args:
            output: The `ModelOutput` of the batch.
            batch: The batch.
            share: What it counts in the step.
            parameters: What is trained.
            backward: Computes gradients of a scalar.
        """
        loss = self.balance(output.losses, batch.tasks).mean()
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
        backward(share * loss)

    def finish(self, parameters: Sequence[nn.Parameter], step: int) -> None:
        """Called after the last batch of a step, before the gradients are clipped."""
        return

    def groups(self) -> list[BalancingGroup]:
        """What is learnt beside the model."""
        return []

    def moving_weights(self) -> dict[str, float]:
        """The tasks' weights now, for the log; empty where they never change."""
        return {}
