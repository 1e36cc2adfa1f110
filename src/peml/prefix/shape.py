"""Where a prefix goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Placement = Literal["attention", "input"]


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """Where a prefix goes: the attention layers of a model, or its input embeddings.

    At the input there is one layer of one head, whose channels are those of an embedding.

    Attributes:
        layers: Number of self-attention layers, in call order.
        kv_heads: Key/value heads of each layer (fewer than query heads under GQA).
        head_dim: Channels of one head.
        placement: ``attention``: keys and values; ``input``: vectors, a prompt.
    """

    layers: int
    kv_heads: int
    head_dim: int
    placement: Placement = "attention"

    @staticmethod
    def at_input(channels: int) -> PrefixShape:
        """In front of input embeddings of so many channels."""
        return PrefixShape(1, 1, channels, "input")

    @property
    def parts(self) -> int:
        """Two, keys and values, in front of attention; one, the vectors, at the input."""
        return 2 if self.placement == "attention" else 1
