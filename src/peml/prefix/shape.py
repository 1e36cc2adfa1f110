"""The attention layers that a prefix is for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """The shape of a model's self-attention, which a prefix has to fit.

    Attributes:
        layers: Number of self-attention layers, in call order.
        kv_heads: Key/value heads of each layer (fewer than query heads under GQA).
        head_dim: Channels of one head.
    """

    layers: int
    kv_heads: int
    head_dim: int
