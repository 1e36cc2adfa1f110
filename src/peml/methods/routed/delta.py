"""A frozen linear layer with a learnt low-rank update beside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peml.methods.layers import LinearShape
from peml.methods.routed.settings import AdapterSettings
from peml.models import TaskRouting


class Delta(nn.Module, ABC):
    """The update of one linear layer, one subclass per method.

    A new delta adds exactly zero. Its parameters are float32, whatever the type of the frozen
    weights.

    A subclass declares the type of `settings`.

    Attributes:
        fast: Parameter name -> its parameter group, whose rate is the setting
            ``{group}_learning_rate``; all others are in the group `adapter`.
    """

    fast: ClassVar[Mapping[str, str]] = {}
    settings: Any

    def __init__(self, layer: LinearShape, routing: TaskRouting, settings: AdapterSettings) -> None:
        super().__init__()
        self.layer, self.routing, self.settings = layer, routing, settings
        self.scale = settings.scale
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()

    @abstractmethod
    def update(self, x: Tensor) -> Tensor:
        """The update, (rows, length, d_out), of inputs (rows, length, d_in)."""

    @abstractmethod
    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """The update for a task as one LoRA: B (d_out, rank) and A (rank, d_in), scale included."""

    def forward(self, x: Tensor) -> Tensor:
        """The update of inputs (rows, ..., d_in): (rows, ..., d_out)."""
        packed = self.routing.packed
        if packed is None:
            wide = x.reshape(x.shape[0], -1, self.layer.d_in)
        else:  # rows of one task each
            wide = packed.unpack(x.reshape(1, -1, self.layer.d_in))
        if not torch.is_autocast_enabled(x.device.type):
            wide = wide.to(next(self.parameters()).dtype)
        update = self.update(self.dropout(wide))
        update = update if packed is None else packed.pack(update)
        return update.reshape(*x.shape[:-1], self.layer.d_out)

    def auxiliary_loss(self) -> Tensor | None:
        """A scalar of the last training pass, weighted, or None."""
        return None


class AdaptedLinear(nn.Module):
    """A frozen linear layer and its delta: ``y = base(x) + delta(x)``.

    ``transposed``: the base's weight is (d_in, d_out), as GPT-2's is.
    """

    def __init__(self, base: nn.Module, delta: Delta, *, transposed: bool = False) -> None:
        super().__init__()
        self.base = base
        self.delta = delta
        self.transposed = transposed
        self.enabled = True

    @property
    def weight(self) -> Tensor:
        """The frozen weight, since some models read its type before they call the layer."""
        weight: Tensor = self.base.get_parameter("weight")
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the update, unless it is switched off."""
        y: Tensor = self.base(x)
        return y + self.delta(x).to(y.dtype) if self.enabled else y

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the update in its weight; only for deltas that don't route."""
        b, a = self.delta.factors(0)
        update = b.double() @ a.double()
        summed = self.weight.double() + (update.T if self.transposed else update)
        self.weight.copy_(summed)
        return self.base


def low_rank_start(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    """Kaiming-uniform with a = sqrt(5), like LoRA's A: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
