"""Registers the operations that come along; imported when one is first asked for."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from peml.prefix.operations.mixing import GRU, Convolution, MinimalGRU, SelfAttention
from peml.prefix.operations.names import SKIP
from peml.prefix.operations.operation import register_operation
from peml.prefix.operations.pointwise import Gated, Linear, Perceptron, Skip

__all__: list[str] = []

register_operation(SKIP, Skip)
register_operation("linear", Linear)
register_operation("mlp-tanh", lambda width: Perceptron(width, 2 * width, torch.tanh))
register_operation("mlp-gelu", lambda width: Perceptron(width, 2 * width, F.gelu))
register_operation("gated-mlp", Gated)
register_operation("bottleneck-mlp", lambda width: Perceptron(width, max(1, width // 4), F.gelu))
register_operation("conv", Convolution)
register_operation("self-attention", SelfAttention)
register_operation("min-gru", MinimalGRU)
register_operation("gru", GRU)
