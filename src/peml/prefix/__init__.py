"""The prefix, the network that computes it, and the search space of such networks. Pure torch."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.genotype import Genotype
    from peml.prefix.network import PrefixNetwork
    from peml.prefix.operations.operation import Operation, zero_linear
    from peml.prefix.prefix import Prefix, PrefixStart
    from peml.prefix.settings import PrefixSettings
    from peml.prefix.shape import PrefixShape
    from peml.prefix.space import SearchSpace
    from peml.prefix.supernet import PrefixSupernet
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Genotype",
    "Operation",
    "Prefix",
    "PrefixNetwork",
    "PrefixSettings",
    "PrefixShape",
    "PrefixStart",
    "PrefixSupernet",
    "SearchSpace",
    "zero_linear",
]
