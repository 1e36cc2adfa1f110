"""Learnt weights: the uncertainty of each task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peml.training.balancing.base import Balancing, BalancingGroup
from peml.training.balancing.settings import BalancingSettings


class Uncertainty(Balancing):
    """Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115, section 3).

    An example of task t has the loss ``exp(-s_t) loss + s_t / 2``, where s_t is a learnt
    log-variance, 0 at first. The paper halves a squared error but not a cross-entropy. Here nothing
    is halved: the factor would change s_t, but not the weight it settles at, 1 / (2 loss). A fixed
    weight of a task multiplies both terms; on the first alone, s_t would learn to undo it. The sum
    may become negative, which does no harm.
    """

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__(settings, tasks, seed)
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def balance(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Losses weighted by the learnt variances; the second term bounds the variances."""
        variances = self.log_variances[tasks]
        return super().balance((-variances).exp() * losses + variances / 2, tasks)

    def groups(self) -> list[BalancingGroup]:
        """The log-variances, with a higher rate than the model's weights and no weight decay."""
        options = {"weight_decay": 0.0}
        return [BalancingGroup("balancing", [self.log_variances], 0.01, options)]

    def moving_weights(self) -> dict[str, float]:
        """The current factors of the losses."""
        weights = self.weights * (-self.log_variances.detach()).exp()
        return dict(zip(self.tasks, weights.tolist(), strict=True))
