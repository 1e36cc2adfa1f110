"""The models and sizes that methods.md and the papers count with."""

from __future__ import annotations

from peml.methods.base import MethodSettings
from peml.methods.layers import Layers, LinearShape
from peml.methods.registry import build_method
from peml.methods.shape import ModelShape

LLAMA_ATTENTION = ModelShape(
    layers=Layers(
        tuple(
            LinearShape(f"layers.{layer}.{name}_proj", 4096, 4096)
            for layer in range(32)
            for name in "qkvo"
        )
    ),
    attention=None,
    hidden_size=4096,
    parameters=6_738_415_616,
    tasks=8,
)
"""q, k, v and o of LLaMA-2-7B, for eight tasks."""


def millions(settings: MethodSettings) -> float:
    """Trainable parameters on `LLAMA_ATTENTION`, in millions, to two digits."""
    counted = build_method(settings).count_parameters(LLAMA_ATTENTION)
    return round(sum(counted.values()) / 1e6, 2)
