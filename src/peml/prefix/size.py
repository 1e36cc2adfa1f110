"""Counts the parameters of prefix networks without building them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from peml.prefix.genotype import Genotype
from peml.prefix.operations.registry import SKIP, make_operation
from peml.prefix.shape import PrefixShape
from peml.prefix.space import HeadKind, SearchSpace


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The range of trainable parameters over the networks of a search space.

    Parameters of the smallest and the largest network, and the mean over all networks, with their
    probabilities at the start of a search.
    """

    low: int
    mean: float
    high: int

    @staticmethod
    def exactly(count: int) -> SizeRange:
        """The range of a single network."""
        return SizeRange(count, float(count), count)

    def shifted(self, count: int) -> SizeRange:
        """The range with ``count`` parameters added."""
        return SizeRange(self.low + count, self.mean + count, self.high + count)

    def without(self, other: SizeRange) -> SizeRange:
        """The range without the parameters of a part."""
        return SizeRange(self.low - other.low, self.mean - other.mean, self.high - other.high)

    def within(self, budget: float) -> SizeRange:
        """The range under a budget, which is the mean and the maximum."""
        return SizeRange(self.low, float(budget), round(budget))

    def distance(self, budget: int) -> float:
        """The largest difference of a network's parameters from a budget."""
        return max(budget - self.low, self.high - budget)


def count_flat(shape: PrefixShape, length: int) -> int:
    """Parameters of a `FlatPrefix`: a key and a value per layer, head and position."""
    return length * shape.layers * _row(shape)


def count_network(genotype: Genotype) -> int:
    """Parameters of the network of a genotype."""
    width, layers = genotype.width, len(genotype.active_layers)
    cells = sum(_count_cell(name, width, genotype.length) for name in genotype.cells)
    head = _count_head(genotype.head, width, genotype.head_rank, layers, _row(genotype.shape))
    return genotype.length * width + cells + 2 * width + int(head)


def count_choices(space: SearchSpace, shape: PrefixShape, choices: Mapping[str, str]) -> int:
    """Parameters of the network with these choices, plus the LoRA's if its ranks are searched."""
    width, length = space.width, int(choices["length"])
    names = [choices[f"cell.{cell}"] for cell in range(space.cells)]
    cells = sum(_count_cell(name, width, length) for name in names)
    layers = sum(choices[f"layer.{layer}"] == "on" for layer in range(space.layers))
    kind = next(kind for kind in space.heads if kind == choices["head"])
    head = _count_head(kind, width, space.head_rank, layers, _row(shape))
    prefix = length * width + cells + 2 * width + int(head)
    return prefix + sum(group.cost * int(choices[group.decision]) for group in space.ranks)


def count_space(space: SearchSpace, shape: PrefixShape, lead: float = 0.0) -> SizeRange:
    """Parameters of the networks of a search space, plus the LoRA's if its ranks are searched.

    ``lead`` is as in `PrefixSupernet`.
    """
    cells = _count_cells(space)

    def extreme(pick: Callable[[Iterable[float]], float], layers: int) -> int:
        heads = [
            _count_head(kind, space.width, space.head_rank, layers, _row(shape))
            for kind in space.heads
        ]
        network = pick(
            (length + 2) * space.width + space.cells * pick(counts)
            for length, counts in zip(space.lengths, cells, strict=True)
        )
        return int(
            network + pick(heads) + sum(group.cost * pick(group.ranks) for group in space.ranks)
        )

    return SizeRange(
        low=extreme(min, 1 if space.layer_gates else space.layers),
        mean=_mean(space, shape, lead),
        high=extreme(max, space.layers),
    )


def _mean(space: SearchSpace, shape: PrefixShape, lead: float) -> float:
    """Mean size over all networks, with their probabilities at the start of a search.

    The decisions are independent, except that not all layers may be off: of L layers, each on with
    probability p, ``L p / (1 - (1 - p)^L)`` are on in the mean.
    """
    size, sizes = ExpectedSize(space, shape), space.sizes()
    odds = {}
    for name, options in size.decisions.items():
        relative = torch.tensor(sizes.get(name, (0.0,) * len(options)), dtype=torch.float64)
        odds[name] = (lead * relative).softmax(-1)
        if name.startswith("layer."):
            odds[name] = odds[name] / (1 - odds[name][1] ** space.layers)
    return size(size.pack(odds, 0.0)).item()


class ExpectedSize:
    """Mean parameters of the network if every decision is drawn with its weights.

    The decisions are independent, so the mean is a polynomial of their weights: a sum over lengths
    and cells, the product of both for operations whose size depends on the length, and that of
    head and layers that are on. That not all layers may be off is ignored.

    Attributes:
        decisions: Name to options, in the order of the rows of `pack`.
    """

    def __init__(self, space: SearchSpace, shape: PrefixShape) -> None:
        self.decisions = space.decisions()
        width, row = space.width, _row(shape)
        self._options = max((len(options) for options in self.decisions.values()), default=1)
        self._gates = [n for n, name in enumerate(self.decisions) if name.startswith("layer.")]
        self._layers = 0 if self._gates else space.layers
        cells = torch.tensor(_count_cells(space), dtype=torch.float64)  # (lengths, operations)
        costs = {f"cell.{c}": cells[0].tolist() for c in range(space.cells)}
        self._longer = cells - cells[0]  # the parameters that a length adds to an operation
        self._cells = space.cells
        names = list(self.decisions)
        self._cell_rows = [n for n, name in enumerate(names) if name.startswith("cell.")]
        self._length_row = names.index("length") if "length" in names else None
        costs["length"] = [width * length for length in space.lengths]
        costs |= {g.decision: [g.cost * rank for rank in g.ranks] for g in space.ranks}
        self._fixed = float(2 * width)
        self._additive = torch.zeros(len(self.decisions), self._options, dtype=torch.float64)
        for name, values in costs.items():
            if name in self.decisions:
                self._additive[list(self.decisions).index(name), : len(values)] = torch.tensor(
                    values, dtype=torch.float64
                )
            else:
                self._fixed += values[0]
        self._head_row = list(self.decisions).index("head") if "head" in self.decisions else None
        ends = [
            [_count_head(kind, width, space.head_rank, n, row) for n in (0, 1)]
            for kind in space.heads
        ]
        self._head = torch.tensor(ends, dtype=torch.float64)  # (kinds, (no layer, one layer))

    def __call__(self, weights: Tensor) -> Tensor:
        """The mean size, a scalar in float64, differentiable.

        `weights` has a row per decision, zeros behind its options, (decisions, most options).
        """
        layers = weights[self._gates, 0].sum() + self._layers
        empty, first = self._head.unbind(1)
        heads = empty + (first - empty) * layers
        if self._head_row is not None:
            heads = heads * weights[self._head_row, : len(heads)]
        mean = self._fixed + (self._additive * weights).sum() + heads.sum()
        if self._length_row is None:
            return mean
        lengths, operations = self._longer.shape
        by_operation = weights.new_full((operations,), self._cells - len(self._cell_rows))
        by_operation = by_operation + weights[self._cell_rows, :operations].sum(0)
        return mean + weights[self._length_row, :lengths] @ self._longer @ by_operation

    def pack(self, values: Mapping[str, Tensor], fill: float) -> Tensor:
        """Values of every decision's options as rows, on the CPU in float64.

        `values` are (options,) by name; `fill` stands after a row's last option.
        """
        rows = torch.full((len(self.decisions), self._options), fill, dtype=torch.float64)
        if not self.decisions:
            return rows
        flat = torch.cat([values[name].detach() for name in self.decisions]).cpu()  # one transfer
        sizes = [len(options) for options in self.decisions.values()]
        for row, part in zip(rows, flat.split(sizes), strict=True):
            row[: len(part)] = part
        return rows


def _row(shape: PrefixShape) -> int:
    """The numbers of one position in one layer."""
    return 2 * shape.kv_heads * shape.head_dim


def _count_cells(space: SearchSpace) -> list[list[int]]:
    """A cell of each operation at each length, (lengths, operations)."""
    return [
        [_count_cell(name, space.width, length) for name in space.operations]
        for length in space.lengths
    ]


@cache
def _count_cell(name: str, width: int, length: int) -> int:
    """A cell's operation, and the norm before it, which skip does not have."""
    if name == SKIP:
        return 0
    with torch.device("meta"):
        operation = make_operation(name, width, length)
    return 2 * width + sum(parameter.numel() for parameter in operation.parameters())


def _count_head(kind: HeadKind, width: int, rank: int, layers: float, row: int) -> float:
    if kind == "full":
        return width * row * layers
    return rank * (width + row * layers)
