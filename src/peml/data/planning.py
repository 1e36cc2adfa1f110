"""Divides an epoch's examples into batches, and orders the batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from peml.data.rows import Indices, index_type

Sizes = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, eq=False)
class Batches(Sequence[Indices]):
    """Batches of numbers, stored as two arrays.

    Attributes:
        numbers: The numbers of all batches in order, (examples,).
        bounds: Start of each batch in ``numbers``, and the end of the last, (batches + 1,).
    """

    numbers: Indices
    bounds: Indices

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> list[Indices]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self.numbers[self.bounds[number] : self.bounds[number + 1]]

    def of(self, values: Indices) -> Batches:
        """The same batches, with ``values[number]`` in place of each number."""
        return Batches(values[self.numbers], self.bounds)

    def shuffled(self, rng: np.random.Generator, together: int = 1, begun: int = 0) -> Batches:
        """The same batches in random order.

        ``together`` batches make a step and stay together; the previous epoch has already given
        ``begun`` batches of the first step.
        """
        order = _shuffled(len(self), rng, together, begun)
        sizes = np.diff(self.bounds)[order]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        shifts = (self.bounds[order] - bounds[:-1]).astype(self.numbers.dtype)
        source = np.arange(len(self.numbers), dtype=self.numbers.dtype) + np.repeat(shifts, sizes)
        return Batches(self.numbers[source], bounds)


def _shuffled(count: int, rng: np.random.Generator, together: int, begun: int) -> Indices:
    if together == 1 or not count:
        return rng.permutation(count)
    # at random places, so that the batches left over are not always the shortest
    order = np.roll(np.arange(count), int(rng.integers(count)))
    first = min(-begun % together, count)
    last = count - (count - first) % together
    steps = rng.permutation(order[first:last].reshape(-1, together))
    return np.concatenate([order[:first], steps.ravel(), order[last:]])


def plan_batches(
    lengths: Sizes, sequences: Sizes, tokens: int, rows: int | None = None, pool: int = 1
) -> Batches:
    """Cuts examples into batches within the budget.

    Each pool of consecutive examples is sorted by length, longest first, and cut into batches of at
    most ``tokens`` tokens (padding included) and ``rows`` examples; by default, all are one pool.

    `lengths` has the longest sequence of each example, `sequences` how many it has, both
    (examples,). An example over the budget becomes a batch by itself.
    """
    rows = rows or max(1, len(lengths))
    order = np.empty(len(lengths), dtype=index_type(len(lengths)))
    bounds = array("q")
    for start in range(0, len(lengths), pool * rows):
        part = order[start : start + pool * rows]
        part[:] = start + np.argsort(-lengths[start : start + pool * rows], kind="stable")
        cut = _cut(lengths[part].tolist(), sequences[part].tolist(), tokens, rows)
        bounds.extend(start + first for first in cut)
    bounds.append(len(order))
    return Batches(order, np.frombuffer(bounds, dtype=np.int64))


def _cut(lengths: list[int], sequences: list[int], tokens: int, rows: int) -> Iterator[int]:
    """First index of each batch, for examples sorted from longest to shortest."""
    first = size = 0
    yield first
    for position, count in enumerate(sequences):
        over = (size + count) * lengths[first] > tokens
        if position > first and (over or position - first >= rows):
            yield position
            first, size = position, 0
        size += count
