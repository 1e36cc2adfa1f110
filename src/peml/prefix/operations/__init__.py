"""The candidate operations of a cell.

A package adds one through the entry point group ``peml.operations``: a subclass of
:class:`Operation`, checked with ``peml.testing.OperationSuite``. Its name in
``prefix.operations`` makes it a candidate.
"""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.operations.operation import Operation, zero_linear
    from peml.prefix.operations.registry import (
        DEFAULT_OPERATIONS,
        OPERATIONS,
        SKIP,
        list_operations,
        make_operation,
        refuse_unknown,
    )
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "DEFAULT_OPERATIONS",
    "OPERATIONS",
    "SKIP",
    "Operation",
    "list_operations",
    "make_operation",
    "refuse_unknown",
    "zero_linear",
]
