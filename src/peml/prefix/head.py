"""Output heads, and how their output becomes keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peml.prefix.prefix import PrefixStart
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind


class OutputHead(nn.Module):
    """Maps hidden states to the corrections of all layers' keys and values.

    ``full`` is one matrix; ``low-rank`` is two, with ``rank`` channels between. The last matrix
    starts at zero, as LoRA's B does, so a fresh prefix is exactly its quiet start. There is no
    bias: a shift shared by all positions is in reach through the norm before the head.

    Args:
        kind: ``full`` or ``low-rank``.
        width: Channels of the hidden states.
        layers: Layers that get a correction.
        shape: Key/value heads and head size.
        rank: Rank of the low-rank head.
    """

    def __init__(
        self, kind: HeadKind, *, width: int, layers: int, shape: PrefixShape, rank: int
    ) -> None:
        super().__init__()
        self.layers, self.kv_heads, self.head_dim = layers, shape.kv_heads, shape.head_dim
        outputs = layers * 2 * shape.kv_heads * shape.head_dim
        self.down = nn.Linear(width, rank, bias=False) if kind == "low-rank" else None
        self.last = nn.Linear(rank if self.down is not None else width, outputs, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Corrections before they are bounded.

        Args:
            x: Hidden states, (length, width).

        Returns:
            (layers, 2, kv_heads, length, head_dim).
        """
        flat: Tensor = self.last(x if self.down is None else self.down(x))
        split = flat.view(x.shape[0], self.layers, 2, self.kv_heads, self.head_dim)
        return split.permute(1, 2, 3, 0, 4)

    @torch.no_grad()
    def inherit(self, other: OutputHead, layers: Sequence[int]) -> None:
        """Copies the weights of a head over more layers.

        Args:
            other: A head of the same kind.
            layers: For each layer of this head, its index in ``other``.
        """
        if self.down is not None and other.down is not None:
            self.down.weight.copy_(other.down.weight)
        rows = other.last.weight.view(other.layers, -1, other.last.in_features)
        self.last.weight.copy_(rows[list(layers)].flatten(0, 1))


def bounded(correction: Tensor, radius: Tensor) -> Tensor:
    """Shrinks corrections smoothly into a ball: ``c / sqrt(1 + |c|^2 / radius^2)``.

    Small corrections pass as they are and no step, however large, leaves the ball: a prefix
    can't jump to where it drowns the real tokens.

    Args:
        correction: Vectors, (..., head_dim).
        radius: Largest norm of each, broadcast against (..., 1).

    Returns:
        The bounded vectors, in float32 or better: half precision overflows in the square.
    """
    correction = correction if correction.dtype == torch.float64 else correction.float()
    square = correction.square().sum(-1, keepdim=True) + radius.square()
    # The clamp is for a radius of 0, where 0 / 0 would be NaN instead of no correction.
    smallest = torch.finfo(square.dtype).tiny
    return correction * (radius * square.clamp_min(smallest).rsqrt())


class PrefixFrame(nn.Module):
    """The fixed part of a prefix: where it starts and how far it may move.

    Holds no parameters, only buffers, so the start travels with the module's state.

    Args:
        shape: Attention layers of the model.
        start: Quiet keys and the radii of the model's own keys and values.
        scale: Largest correction, relative to the start's radii.
        length: Positions of the prefix, the longest where it is searched.

    Attributes:
        base: Silent keys (quiet ones where the start has none) and zero values,
            (layers, 2, kv_heads, 1, head_dim): a position that is as good as absent.
        offset: From there to the start, (layers, 2, kv_heads, positions or 1, head_dim), or None.
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
        """A start that makes the same frame."""
        rows = None if self.offset is None else self.base + self.offset
        return PrefixStart(self.base[:, 0, :, 0], self.radius[:, :, 0, 0, 0], rows)

    def moved(self, correction: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """How far keys and values are from the silent ones: start, and bounded correction.

        Args:
            correction: Raw, (layers, 2, kv_heads, length, head_dim).
            layers: Which layers these are, in their order; None for all.
        """
        chosen = slice(None) if layers is None else list(layers)
        moved = bounded(correction, self.scale * self.radius[chosen])
        if self.offset is None:
            return moved
        return moved + self.offset[chosen][..., : correction.shape[3], :]
