"""Output heads, and how their output becomes keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from peml.prefix.prefix import PrefixStart
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind


class OutputHead(nn.Module):
    """Maps hidden states to the corrections of all layers' keys and values.

    ``full`` is one matrix; ``low-rank`` is two, with ``rank`` channels between. The last matrix
    starts at zero, like LoRA's B, so a new prefix is exactly its start. There is no bias, since
    the norm before the head can already shift all positions together.
    """

    def __init__(
        self, kind: HeadKind, width: int, layers: int, shape: PrefixShape, rank: int
    ) -> None:
        super().__init__()
        self.layers, self.kv_heads, self.head_dim = layers, shape.kv_heads, shape.head_dim
        outputs = layers * 2 * shape.kv_heads * shape.head_dim
        self.down = nn.Linear(width, rank, bias=False) if kind == "low-rank" else None
        self.last = nn.Linear(rank if self.down is not None else width, outputs, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(length, width) to (layers, 2, kv_heads, length, head_dim), before `bounded`."""
        flat: Tensor = self.last(x if self.down is None else self.down(x))
        split = flat.view(x.shape[0], self.layers, 2, self.kv_heads, self.head_dim)
        return split.permute(1, 2, 3, 0, 4)

    @torch.no_grad()
    def inherit(self, other: OutputHead, layers: Sequence[int]) -> None:
        """Copies the weights of these layers of ``other``, a head of the same kind."""
        if self.down is not None and other.down is not None:
            self.down.weight.copy_(other.down.weight)
        rows = other.last.weight.view(other.layers, -1, other.last.in_features)
        self.last.weight.copy_(rows[list(layers)].flatten(0, 1))


def bounded(correction: Tensor, radius: Tensor) -> Tensor:
    """Limits vectors, (..., head_dim), smoothly to a ball: ``c / sqrt(1 + |c|^2 / radius^2)``.

    Small corrections hardly change, and no step can leave the ball, where the prefix would take all
    attention from the real tokens. The radius is broadcast against (..., 1). The result is in
    float32 or float64: half precision overflows in the square.
    """
    correction = correction if correction.dtype == torch.float64 else correction.float()
    square = correction.square().sum(-1, keepdim=True) + radius.square()
    # The clamp turns 0 / 0 (a radius of 0) into no correction instead of NaN.
    smallest = torch.finfo(square.dtype).tiny
    return correction * (radius * square.clamp_min(smallest).rsqrt())


class PrefixFrame(nn.Module):
    """The fixed part of a prefix: its start and the limit of its corrections.

    It has only buffers, no parameters, so the start is saved with the module's state.

    `scale` is the largest correction, relative to the start's radii; `length` the number of
    positions, of the longest candidate if it is searched.

    Attributes:
        base: Silent keys (or quiet keys if the start has no silent ones) and zero values,
            (layers, 2, kv_heads, 1, head_dim): a position without any effect.
        offset: Start minus base, (layers, 2, kv_heads, positions or 1, head_dim), or None for 0.
        radius: The start's radii, (layers, 2, 1, 1, 1).
    """

    base: Tensor
    offset: Tensor | None
    radius: Tensor

    def __init__(self, shape: PrefixShape, start: PrefixStart, scale: float, length: int) -> None:
        super().__init__()
        keys = (shape.layers, shape.kv_heads, shape.head_dim)
        radii = (shape.layers, 2)
        if (tuple(start.keys.shape), tuple(start.radius.shape)) != (keys, radii):
            raise ValueError(
                f"a start with keys {tuple(start.keys.shape)} and radii "
                f"{tuple(start.radius.shape)} does not fit a prefix of {shape}"
            )
        self.scale = scale
        radius = start.radius.detach()
        quiet = self._position(start.keys)
        base = quiet if start.silent is None else self._position(start.silent)
        rows = start.rows
        if rows is None and start.silent is not None:
            rows = quiet
        self.register_buffer("base", base)
        self.register_buffer("offset", None if rows is None else rows[..., :length, :] - base)
        self.register_buffer("radius", radius.clone()[:, :, None, None, None])

    def _position(self, keys: Tensor) -> Tensor:
        """A position of these keys and zero values, (layers, 2, kv_heads, 1, head_dim)."""
        keys = keys.detach()
        return torch.stack([keys, torch.zeros_like(keys)], dim=1)[:, :, :, None, :]

    def start(self) -> PrefixStart:
        """A start from which an equal frame can be made."""
        rows = None if self.offset is None else self.base + self.offset
        return PrefixStart(self.base[:, 0, :, 0], self.radius[:, :, 0, 0, 0], rows)

    def moved(self, correction: Tensor, layers: Tensor | None = None) -> Tensor:
        """Keys and values minus `base`: the start's offset plus the limited correction.

        `correction` is (layers, 2, kv_heads, length, head_dim), before `bounded`; `layers` are the
        indices of these layers, in order, on the same device; None for all.
        """
        moved = self._bounded(correction, layers)
        if self.offset is None:
            return moved
        offset = self.offset if layers is None else self.offset[layers]
        return moved + offset[..., : correction.shape[3], :]

    def limited(self, correction: Tensor, layers: Tensor | None = None) -> Tensor:
        """The change of a context: the limited correction of all positions but the first.

        Much attention rests on the first position, so it stays as it is. Arguments as for `moved`.
        """
        return functional.pad(self._bounded(correction, layers)[..., 1:, :], (0, 0, 1, 0))

    def _bounded(self, correction: Tensor, layers: Tensor | None) -> Tensor:
        radius = self.radius if layers is None else self.radius[layers]
        return bounded(correction, self.scale * radius)
