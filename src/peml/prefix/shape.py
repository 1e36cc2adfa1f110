"""Where a prefix goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """Where a prefix goes: the attention layers of a model.

    Attributes:
        layers: Number of self-attention layers, in call order.
        kv_heads: Key/value heads of each layer (fewer than query heads under GQA).
        head_dim: Channels of one head.
    """

    layers: int
    kv_heads: int
    head_dim: int
