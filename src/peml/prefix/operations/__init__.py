"""The candidate operations of a cell.

The registry is the extension point: define a subclass of :class:`Operation`, register it under
a name, list the name in ``prefix.operations``, and check it with
``peml.testing.OperationSuite``.
"""

import torch
from torch.nn import functional as F

from peml.prefix.operations.mixing import GRU, Convolution, MinimalGRU, SelfAttention
from peml.prefix.operations.operation import (
    SKIP,
    Operation,
    list_operations,
    make_operation,
    refuse_unknown,
    register_operation,
    zero_linear,
)
from peml.prefix.operations.pointwise import Gated, Linear, Perceptron, Skip

__all__ = [
    "DEFAULT_OPERATIONS",
    "SKIP",
    "Operation",
    "list_operations",
    "make_operation",
    "refuse_unknown",
    "register_operation",
    "zero_linear",
]

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

# `skip` stands last: where two logits are exactly equal the earlier option is taken.
DEFAULT_OPERATIONS = (
    "linear",
    "mlp-tanh",
    "mlp-gelu",
    "gated-mlp",
    "bottleneck-mlp",
    "conv",
    "self-attention",
    "min-gru",
    SKIP,
)
"""What a cell chooses from unless the config says otherwise."""
