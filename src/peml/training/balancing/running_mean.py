"""Losses relative to their running means."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.training.balancing.base import Balancing
from peml.training.balancing.settings import BalancingSettings


class RunningMean(Balancing):
    """Weights each task by the inverse of its running mean loss, so that tasks count alike.

    The loss ratio of CoV-Weighting (arXiv 2009.01717) with an exponential mean, times the mean over
    tasks, which keeps the scale of the sum. The weights are bounded, or the noise of a solved task
    would dominate the others. A task not seen yet has weight 1.
    """

    means: Tensor
    seen: Tensor

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__(settings, tasks, seed)
        self.register_buffer("means", torch.zeros(len(tasks)))
        self.register_buffer("seen", torch.zeros(len(tasks), dtype=torch.bool))

    def balance(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Losses divided by the running means of earlier batches."""
        return super().balance(losses, tasks) * self._factors()[tasks]

    def backward(
        self,
        output: Any,
        batch: TaskBatch,
        share: float,
        parameters: Sequence[nn.Parameter],
        backward: Callable[[Tensor], None],
    ) -> None:
        """Adds gradients; updates the means with the batches' losses, one batch after another."""
        measured = self.world.stack(self._measure(output.losses.detach(), batch.tasks))
        for earlier in measured[: self.world.rank]:
            self._update(*earlier)
        super().backward(output, batch, share, parameters, backward)
        for later in measured[self.world.rank :]:
            self._update(*later)

    def _factors(self) -> Tensor:
        bound = self.settings.bound
        common = self.means.sum() / self.seen.sum().clamp(min=1)
        factors = (common / self.means).clamp(1 / bound, bound)
        return torch.where(self.seen & (self.means > 0), factors, 1.0)

    def _measure(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Number and sum of a batch's losses by task, (2, tasks)."""
        none = self.means.new_zeros(len(self.tasks))
        counts = none.index_add(0, tasks, torch.ones_like(losses).to(none))
        return torch.stack([counts, none.index_add(0, tasks, losses.to(none))])

    def _update(self, counts: Tensor, sums: Tensor) -> None:
        now = sums / counts.clamp(min=1)
        decay = torch.where(self.seen, self.settings.decay, 0.0)
        updated = decay * self.means + (1 - decay) * now
        self.means.copy_(torch.where(counts > 0, updated, self.means))
        self.seen |= counts > 0

    def moving_weights(self) -> dict[str, float]:
        """The weights of the next batch."""
        return dict(zip(self.tasks, (self.weights * self._factors()).tolist(), strict=True))
