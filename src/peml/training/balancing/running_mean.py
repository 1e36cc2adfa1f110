"""Losses in relation to what they have been of late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.training.balancing.base import Balancing
from peml.training.balancing.settings import BalancingSettings


class RunningMean(Balancing):
    """Weighs each task with the inverse of its running mean loss, so that all count alike.

    The loss ratio of CoV-Weighting (arXiv 2009.01717) with an exponential mean, times the mean over
    tasks, so that the sum keeps its scale. The weights are bounded: a task that is solved would
    otherwise drown the others with its noise. A task not seen yet weighs 1.
    """

    means: Tensor
    seen: Tensor

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__(settings, tasks, seed)
        self.register_buffer("means", torch.zeros(len(tasks)))
        self.register_buffer("seen", torch.zeros(len(tasks), dtype=torch.bool))

    def balance(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Losses over the running means of the batches before."""
        return super().balance(losses, tasks) * self._factors()[tasks]

    def backward(
        self,
        output: Any,
        batch: TaskBatch,
        share: float,
        parameters: Sequence[nn.Parameter],
        backward: Callable[[Tensor], None],
    ) -> None:
        """As ever; then the batch's losses enter the means."""
        super().backward(output, batch, share, parameters, backward)
        self._remember(output.losses.detach(), batch.tasks)

    def _factors(self) -> Tensor:
        bound = self.settings.bound
        common = self.means.sum() / self.seen.sum().clamp(min=1)
        factors = (common / self.means).clamp(1 / bound, bound)
        return torch.where(self.seen & (self.means > 0), factors, 1.0)

    def _remember(self, losses: Tensor, tasks: Tensor) -> None:
        counts = torch.bincount(tasks, minlength=len(self.tasks))
        sums = self.means.new_zeros(len(self.tasks)).index_add(0, tasks, losses.to(self.means))
        now = sums / counts.clamp(min=1)
        decay = torch.where(self.seen, self.settings.decay, 0.0)
        moved = decay * self.means + (1 - decay) * now
        self.means.copy_(torch.where(counts > 0, moved, self.means))
        self.seen |= counts > 0

    def moving_weights(self) -> dict[str, float]:
        """The weights of the next batch."""
        return dict(zip(self.tasks, (self.weights * self._factors()).tolist(), strict=True))
