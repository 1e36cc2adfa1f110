"""The prefix, the network that computes it, and the search space of such networks. Pure torch."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.operations.operation import Operation, zero_linear
else:
    __getattr__ = hand_on(__name__)

__all__ = ["Operation", "zero_linear"]
