"""Weights learnt as the tasks' noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peml.training.balancing.base import Balancing, BalancingGroup
from peml.training.balancing.settings import BalancingSettings


class Uncertainty(Balancing):
    """Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115, section 3).

    An example of task t counts ``exp(-s_t) loss + s_t / 2``, s_t a learnt log-variance. The paper
    halves a squared error and not a cross-entropy; here nothing is halved, since such a factor
    moves s_t and not the weight it settles at, 1 / (2 loss). A given weight multiplies both terms:
    on the first alone it would be learnt away. All start at 0, with the weights as given. The sum
    may become negative, which does no harm.
    """

    def __init__(self, settings: BalancingSettings, tasks: Sequence[str], seed: int) -> None:
        super().__init__(settings, tasks, seed)
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def balance(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Losses weighted by the learnt variances, which are held up by the second term."""
        variances = self.log_variances[tasks]
        return super().balance((-variances).exp() * losses + variances / 2, tasks)

    def groups(self) -> list[BalancingGroup]:
        """The log-variances, faster than the model's weights and never decayed."""
        options = {"weight_decay": 0.0}
        return [BalancingGroup("balancing", [self.log_variances], 0.01, options)]

    def moving_weights(self) -> dict[str, float]:
        """What a loss is multiplied with."""
        weights = self.weights * (-self.log_variances.detach()).exp()
        return dict(zip(self.tasks, weights.tolist(), strict=True))
