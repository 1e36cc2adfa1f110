"""How many parameters a prefix network has, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from peml.prefix.genotype import Genotype
from peml.prefix.operations import SKIP, make_operation
from peml.prefix.prefix import PrefixShape
from peml.prefix.space import HeadKind, SearchSpace

__all__ = ["SizeRange", "count_flat", "count_network", "count_space"]


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Trainable parameters before it is known which network they belong to.

    Attributes:
        low: Fewest of any network.
        mean: Mean over all networks, each as likely as any other.
        high: Most of any network.
    """

    low: int
    mean: float
    high: int

    @staticmethod
    def exactly(count: int) -> SizeRange:
        """Where there is nothing to decide."""
        return SizeRange(count, float(count), count)

    def shifted(self, count: int) -> SizeRange:
        """With so many parameters more."""
        return SizeRange(self.low + count, self.mean + count, self.high + count)

    def distance(self, budget: int) -> float:
        """How far the network farthest from a budget lies from it."""
        return max(budget - self.low, self.high - budget)


def count_flat(shape: PrefixShape, length: int) -> int:
    """Parameters of a `FlatPrefix`: a key and a value a layer, head and position."""
    return length * shape.layers * _row(shape)


def count_network(genotype: Genotype) -> int:
    """Parameters of the network of a genotype."""
    width, layers = genotype.width, len(genotype.active_layers)
    cells = sum(_count_cell(name, width) for name in genotype.cells)
    head = _count_head(genotype.head, width, genotype.head_rank, layers, _row(genotype.shape))
    return genotype.length * width + cells + 2 * width + int(head)


def count_space(space: SearchSpace, shape: PrefixShape) -> SizeRange:
    """Parameters of the networks of a search space.

    The decisions are independent, so the mean is a sum of their means; only that not all layers
    may be off ties the gates together: of L layers ``(L / 2) / (1 - 2^-L)`` are on in the mean.
    """
    width, layers, row = space.width, space.layers, _row(shape)
    cells = [_count_cell(name, width) for name in space.operations]
    active = (1, layers / 2 / (1 - 2.0**-layers), layers)
    if not space.layer_gates:
        active = (layers, float(layers), layers)

    def total(length: float, cell: float, heads: Sequence[float], kind: int) -> float:
        head = (min(heads), sum(heads) / len(heads), max(heads))[kind]
        return length * width + space.cells * cell + 2 * width + head

    heads = [
        [_count_head(kind, width, space.head_rank, count, row) for kind in space.heads]
        for count in active
    ]
    lengths = space.lengths
    return SizeRange(
        low=int(total(min(lengths), min(cells), heads[0], 0)),
        mean=total(sum(lengths) / len(lengths), sum(cells) / len(cells), heads[1], 1),
        high=int(total(max(lengths), max(cells), heads[2], 2)),
    )


def _row(shape: PrefixShape) -> int:
    """Numbers in the keys and values of one layer and position."""
    return 2 * shape.kv_heads * shape.head_dim


@cache
def _count_cell(name: str, width: int) -> int:
    """A cell's operation, and the norm before it where it reads anything."""
    if name == SKIP:
        return 0
    with torch.device("meta"):
        operation = make_operation(name, width)
    return 2 * width + sum(parameter.numel() for parameter in operation.parameters())


def _count_head(kind: HeadKind, width: int, rank: int, layers: float, row: int) -> float:
    if kind == "full":
        return width * row * layers
    return rank * (width + row * layers)
