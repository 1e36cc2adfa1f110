"""The candidate operations of a cell.

A package adds one through the entry point group ``peml.operations``: a subclass of
:class:`Operation`, checked with ``peml.testing.OperationSuite``. Its name in
``prefix.operations`` makes it a candidate.
"""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.operations.operation import Operation, zero_linear
    from peml.prefix.operations.registry import list_operations, make_operation
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Operation",
    "list_operations",
    "make_operation",
    "zero_linear",
]
