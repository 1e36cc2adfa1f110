"""The prefix, the network that computes it, and the search space of such networks. Pure torch."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.prefix.adaptation import adapt, differences, load_for
    from peml.prefix.flat import FlatPrefix
    from peml.prefix.genotype import Genotype
    from peml.prefix.network import PrefixNetwork
    from peml.prefix.operations import SKIP, Operation, make_operation, zero_linear
    from peml.prefix.prefix import OnContext, Prefix, PrefixStart
    from peml.prefix.settings import PrefixBaseSettings, PrefixSettings
    from peml.prefix.shape import PrefixShape
    from peml.prefix.size import (
        ExpectedSize,
        SizeRange,
        count_choices,
        count_flat,
        count_network,
        count_space,
    )
    from peml.prefix.space import HeadKind, RankGroup, SearchSpace
    from peml.prefix.supernet import Decision, PrefixSupernet
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "SKIP",
    "Decision",
    "ExpectedSize",
    "FlatPrefix",
    "Genotype",
    "HeadKind",
    "OnContext",
    "Operation",
    "Prefix",
    "PrefixBaseSettings",
    "PrefixNetwork",
    "PrefixSettings",
    "PrefixShape",
    "PrefixStart",
    "PrefixSupernet",
    "RankGroup",
    "SearchSpace",
    "SizeRange",
    "adapt",
    "count_choices",
    "count_flat",
    "count_network",
    "count_space",
    "differences",
    "load_for",
    "make_operation",
    "zero_linear",
]
