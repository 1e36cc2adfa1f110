"""The prefix itself: keys and values in front of every self-attention layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from peml.prefix.shape import PrefixShape


@dataclass(frozen=True, slots=True)
class PrefixStart:
    """A start that hardly moves the model, and how far training may move it.

    Attributes:
        keys: Quiet keys, (layers, kv_heads, head_dim); every prefix position starts there.
            Values start at zero.
        radius: Largest norm of the learnt correction of one head's key and value,
            (layers, 2), in units of the model's own keys and values.
        rows: Where each position starts instead, (layers, 2, kv_heads, positions, head_dim);
            None for quiet keys and zero values at all of them.
        silent: Keys as good as absent, (layers, kv_heads, head_dim), to which a search leads what
            it switches off; None where the quiet keys are quiet enough.
    """

    keys: Tensor
    radius: Tensor
    rows: Tensor | None = None
    silent: Tensor | None = None

    def zeroed(self) -> PrefixStart:
        """Keys of zero instead, which take attention from the tokens; for studies and tests."""
        return replace(self, keys=torch.zeros_like(self.keys))

    def drawn(self, length: int, generator: torch.Generator) -> PrefixStart:
        """Rows from N(0, 1) instead, as PEFT draws a flat prefix; for studies and tests."""
        layers, kv_heads, head_dim = self.keys.shape
        rows = torch.randn(layers, 2, kv_heads, length, head_dim, generator=generator)
        return replace(self, rows=rows.to(self.keys))

    def at(self, rows: Tensor) -> PrefixStart:
        """Given rows instead, such as a text's keys and values."""
        return replace(self, rows=rows.to(self.keys))

    @staticmethod
    def zeros(shape: PrefixShape, radius: float = 1.0) -> PrefixStart:
        """A start at all-zero keys, for tests and for models without measured queries."""
        return PrefixStart(
            keys=torch.zeros(shape.layers, shape.kv_heads, shape.head_dim),
            radius=torch.full((shape.layers, 2), radius),
        )


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values shared by all tasks and all rows of a batch.

    Attributes:
        tensor: (layers, 2, kv_heads, prefix_length, head_dim), keys then values. Keys are used
            as they are: after rotation, so nothing rotates them again.
        active: Which layers get the prefix at all.
    """

    tensor: Tensor
    active: tuple[bool, ...]

    def __post_init__(self) -> None:
        if self.tensor.dim() != 5 or self.tensor.shape[0] != len(self.active):
            raise ValueError(
                f"prefix tensor of shape {tuple(self.tensor.shape)} does not fit "
                f"{len(self.active)} layers; wanted (layers, 2, kv_heads, length, head_dim)"
            )

    @property
    def length(self) -> int:
        """Number of prefix positions."""
        return self.tensor.shape[3]

    def layer(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of one layer, each (kv_heads, length, head_dim); None where inactive."""
        if not self.active[index] or self.length == 0:
            return None
        return self.tensor[index, 0], self.tensor[index, 1]

    def without_some(self, probability: float) -> Prefix:
        """The prefix without some positions, each dropped with a probability, but never all.

        A dropped position takes no attention at all, and the softmax over what is left needs no
        rescaling: DropKey (Li et al. 2023, arXiv 2208.02646) for whole positions. Drawn from
        torch's global generator.
        """
        kept = torch.rand(self.length) >= probability
        if not kept.any():
            kept[int(torch.randint(self.length, ()))] = True
        positions = kept.nonzero().flatten().to(self.tensor.device)
        return Prefix(self.tensor.index_select(3, positions), self.active)

    def detached(self) -> Prefix:
        """The same numbers, cut from the graph: a static prefix."""
        return Prefix(self.tensor.detach().clone(), self.active)
