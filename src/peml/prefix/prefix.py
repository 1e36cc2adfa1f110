"""The prefix itself: keys and values in front of every self-attention layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from peml.prefix.shape import PrefixShape


@dataclass(frozen=True, slots=True)
class PrefixStart:
    """The initial keys and values of a prefix, and how far training may change them.

    Attributes:
        keys: Quiet keys, (layers, kv_heads, head_dim), which get little attention; the start of
            every position. Values start at zero.
        radius: Largest norm of the learnt correction of one head's key and value,
            (layers, 2), in units of the model's own keys and values.
        rows: Another start for each position, (layers, 2, kv_heads, positions, head_dim);
            None: quiet keys and zero values.
        silent: Keys that get no attention, (layers, kv_heads, head_dim); a search moves layers and
            positions that it switches off to them. None: the quiet keys are used for that.
    """

    keys: Tensor
    radius: Tensor
    rows: Tensor | None = None
    silent: Tensor | None = None

    def at(self, rows: Tensor) -> PrefixStart:
        """This start with the given rows, such as a text's keys and values."""
        return replace(self, rows=rows.to(self.keys))

    @staticmethod
    def zeros(shape: PrefixShape, radius: float = 1.0) -> PrefixStart:
        """A start with all-zero keys, for tests and for models without measured queries."""
        return PrefixStart(
            keys=torch.zeros(shape.layers, shape.kv_heads, shape.head_dim),
            radius=torch.full((shape.layers, 2), radius),
        )


@dataclass(frozen=True, slots=True)
class OnContext:
    """A task's context that a prefix network's output is added to, in one forward pass.

    Attributes:
        rows: Keys and values, (layers, 2, kv_heads, positions, head_dim), at most as many positions
            as the network has.
        embeddings: Added to the network's own embeddings, (positions, width).
    """

    rows: Tensor
    embeddings: Tensor


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values shared by all tasks and all rows of a batch.

    Attributes:
        tensor: (layers, 2, kv_heads, prefix_length, head_dim), keys then values. Keys are used
            unchanged: rotary embeddings are not applied to them.
        active: Which layers get the prefix.
        gates: Of a context, while a search decides which layers see it: the share, 0 to 1, of a
            layer's attention with it against that without it, (layers,).
    """

    tensor: Tensor
    active: tuple[bool, ...]
    gates: Tensor | None = None
    _split: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tensor.dim() != 5 or self.tensor.shape[0] != len(self.active):
            raise ValueError(
                f"prefix tensor of shape {tuple(self.tensor.shape)} does not fit "
                f"{len(self.active)} layers; wanted (layers, 2, kv_heads, length, head_dim)"
            )
        # All at once: each index would have a gradient of the whole tensor's size.
        object.__setattr__(self, "_split", self.tensor.flatten(0, 1).unbind())

    @property
    def length(self) -> int:
        """Number of prefix positions."""
        return self.tensor.shape[3]

    def layer(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of one layer, each (kv_heads, length, head_dim); None if inactive."""
        if not self.active[index] or self.length == 0:
            return None
        return self._split[2 * index], self._split[2 * index + 1]

    def without_some(self, probability: float, keep: int = 0) -> Prefix:
        """The prefix with each position after ``keep`` dropped with this probability, never all.

        A dropped position gets no attention, and the softmax over the others needs no rescaling:
        DropKey (Li et al. 2023, arXiv 2208.02646) for whole positions. Uses torch's global
        generator.
        """
        remaining = torch.rand(self.length) >= probability
        remaining[:keep] = True
        if not remaining.any():
            remaining[int(torch.randint(self.length, ()))] = True
        return self.at(remaining)

    def at(self, remaining: Tensor) -> Prefix:
        """The prefix at the positions of a mask, (positions,), which is on the CPU."""
        positions = remaining.nonzero().flatten().to(self.tensor.device, non_blocking=True)
        return replace(self, tensor=self.tensor.index_select(3, positions))

    def detached(self) -> Prefix:
        """A copy without gradients: a static prefix."""
        gates = None if self.gates is None else self.gates.detach().clone()
        return Prefix(self.tensor.detach().clone(), self.active, gates)
