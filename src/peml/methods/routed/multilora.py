"""MultiLoRA: parallel low-rank branches that start with scaled-out outputs (arXiv 2311.11501)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.methods.base import MethodSettings
from peml.methods.layers import LinearShape
from peml.methods.routed.delta import Delta, low_rank_start
from peml.methods.routed.part import AdapterMethod
from peml.methods.routed.settings import MultiLoraSettings
from peml.models import TaskRouting


class MultiLoraDelta(Delta):
    """``y = s * sum_i c_i * (B_i A_i x)``, c_i a vector of d_out that starts at zero.

    Nothing is routed: the sum merges once, into an update of rank up to branches x r.
    """

    fast: ClassVar[Mapping[str, str]] = {"scaling": "scaling"}
    settings: MultiLoraSettings

    def __init__(
        self, layer: LinearShape, routing: TaskRouting, settings: MultiLoraSettings
    ) -> None:
        super().__init__(layer, routing, settings)
        branches, r = settings.branches, settings.r
        self.down = low_rank_start((branches, r, layer.d_in), layer.d_in)
        self.up = low_rank_start((branches, r, layer.d_out), r)  # B's inputs are the r channels
        self.scaling = nn.Parameter(torch.zeros(branches, layer.d_out))

    def _scaled_up(self) -> Tensor:
        """All branches' B side by side, outputs scaled, (branches * r, d_out)."""
        return (self.scale * self.up * self.scaling[:, None, :]).flatten(0, 1)

    def update(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.down.flatten(0, 1)) @ self._scaled_up()

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """A LoRA of rank branches x r, the same for all tasks."""
        return self._scaled_up().T, self.down.flatten(0, 1)


class MultiLora(AdapterMethod):
    """MultiLoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MultiLoraSettings
    delta_type: ClassVar[type[Delta]] = MultiLoraDelta
    settings: MultiLoraSettings

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        n = self.settings.branches
        return {
            "adapter": sum(n * r * (layer.d_in + layer.d_out) for layer in layers),
            "scaling": sum(n * layer.d_out for layer in layers),
        }
