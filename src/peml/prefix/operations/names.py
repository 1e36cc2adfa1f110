"""Names of operations, and which of them there are; no torch unless a name is unfamiliar."""

from __future__ import annotations

from collections.abc import Iterable

from peml.errors import nearest

SKIP = "skip"
"""Name of the operation that adds nothing; the search guards against a collapse to it."""


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


def refuse_unknown(names: Iterable[str]) -> None:
    """Checks names of operations in a config or a genotype.

    Raises:
        ValueError: Names that aren't registered, each with the nearest one that is.
    """
    names = tuple(names)
    if set(names) <= {*DEFAULT_OPERATIONS}:
        return
    from peml.prefix.operations.operation import list_operations

    known = list_operations()
    unknown = [f"{name!r}.{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no operation {' and no operation '.join(unknown)} There are: {', '.join(known)}"
        )
