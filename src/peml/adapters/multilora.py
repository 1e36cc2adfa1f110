"""MultiLoRA: parallel low-rank branches that start with scaled-out outputs (arXiv 2311.11501)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.adapters.delta import Delta, low_rank_start

__all__ = ["MultiLoraDelta"]


class MultiLoraDelta(Delta):
    """``y = s * sum_i c_i * (B_i A_i x)``, c_i a vector of d_out that starts at zero.

    Nothing is routed: the sum merges once, into an update of rank up to branches x r.

    Args:
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        r: Rank of one branch.
        scale: alpha / r.
        dropout: Dropout on the input.
        branches: Number of branches.
    """

    fast: ClassVar[tuple[str, ...]] = ("scaling",)

    def __init__(
        self, d_in: int, d_out: int, *, r: int, scale: float, dropout: float, branches: int
    ) -> None:
        super().__init__(d_in, d_out, scale=scale, dropout=dropout)
        self.down = low_rank_start((branches, r, d_in), d_in)
        self.up = low_rank_start((branches, r, d_out), r)  # B's inputs are the r channels
        self.scaling = nn.Parameter(torch.zeros(branches, d_out))

    def _scaled_up(self) -> Tensor:
        """All branches' B side by side, outputs scaled, (branches * r, d_out)."""
        return (self.scale * self.up * self.scaling[:, None, :]).flatten(0, 1)

    def update(self, x: Tensor) -> Tensor:
        """All branches in two products."""
        return nn.functional.linear(x, self.down.flatten(0, 1)) @ self._scaled_up()

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """A LoRA of rank branches x r, the same for all tasks."""
        return self._scaled_up().T, self.down.flatten(0, 1)
