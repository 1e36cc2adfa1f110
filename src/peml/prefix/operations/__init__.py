"""The candidate operations of a cell.

The registry is the extension point: define a subclass of :class:`Operation`, register it under
a name, list the name in ``prefix.operations``, and check it with
``peml.testing.OperationSuite``.
"""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.operations.names import DEFAULT_OPERATIONS, SKIP, refuse_unknown
    from peml.prefix.operations.operation import (
        Operation,
        list_operations,
        make_operation,
        register_operation,
        zero_linear,
    )
else:
    __getattr__ = hand_on(__name__)

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
