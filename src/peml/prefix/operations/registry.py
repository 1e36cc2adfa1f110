"""The operations by name: the built-in ones, and those that installed packages add."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from peml.errors import nearest
from peml.registry import Registry

if TYPE_CHECKING:  # names are known without torch
    from peml.prefix.operations.operation import Operation

SKIP = "skip"
"""Name of the operation that adds nothing; the search guards against a collapse to it."""

OPERATIONS: Registry[Callable[[int, int], Operation]] = Registry(
    "peml.operations",
    "operation",
    {
        SKIP: "peml.prefix.operations.pointwise:Skip",
        "linear": "peml.prefix.operations.pointwise:Linear",
        "mlp-tanh": "peml.prefix.operations.pointwise:TanhPerceptron",
        "mlp-gelu": "peml.prefix.operations.pointwise:GeluPerceptron",
        "gated-mlp": "peml.prefix.operations.pointwise:Gated",
        "bottleneck-mlp": "peml.prefix.operations.pointwise:Bottleneck",
        "conv": "peml.prefix.operations.mixing:Convolution",
        "self-attention": "peml.prefix.operations.mixing:SelfAttention",
        "min-gru": "peml.prefix.operations.mixing:MinimalGRU",
        "gru": "peml.prefix.operations.mixing:GRU",
    },
)
"""Name to factory, called with width and length; usually an `Operation` subclass."""

# `skip` comes last, since of equal logits the earlier option is chosen.
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
"""The default candidates of a cell."""


def list_operations() -> tuple[str, ...]:
    """All names, sorted."""
    return OPERATIONS.names()


def refuse_unknown(names: Iterable[str]) -> None:
    """Raises a ValueError with the unknown names, each with the nearest known one."""
    known = list_operations()
    unknown = [f"{name!r}.{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no operation {' and no operation '.join(unknown)} There are: {', '.join(known)}"
        )


def make_operation(name: str, width: int, length: int) -> Operation:
    """Makes a new operation; raises a ConfigError if there is none of this name."""
    return OPERATIONS.load(name, "correct the name, or install the package that adds it")(
        width, length
    )
