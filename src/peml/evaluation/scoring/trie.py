"""The trie of many token sequences, kept as a sorted list and what neighbours share.

::

    sorted sequences        shared with the one before        nodes it adds
    the cat sat             0                                 3
    the cat slept           2                                 1
    the dog                 1                                 1
    a fox                   0                                 2

A subtree is a run of neighbours, and its size is a difference of two sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


class Trie:
    """Token sequences in lexicographic order; sequences of different tasks share nothing.

    Args:
        sequences: Token ids of each sequence.
        tasks: Task of each sequence; routed layers answer the same tokens differently by task.

    Attributes:
        order: Index of each sorted place's sequence, (sequences,).
        lengths: Tokens of the sequence at each place, (sequences,).
        shared: Leading tokens it has in common with the place before, (sequences,).
    """

    def __init__(self, sequences: Sequence[Sequence[int]], tasks: Sequence[int]) -> None:
        order = sorted(range(len(sequences)), key=lambda i: (tasks[i], sequences[i]))
        arrays = [np.asarray(sequences[i], dtype=np.int64) for i in order]
        shared = [0] * len(order)
        for place in range(1, len(order)):
            if tasks[order[place]] == tasks[order[place - 1]]:
                shared[place] = _common(arrays[place - 1], arrays[place])
        self._arrays = arrays
        self.order: Counts = np.asarray(order, dtype=np.int64)
        self.lengths: Counts = np.asarray([len(array) for array in arrays], dtype=np.int64)
        self.shared: Counts = np.asarray(shared, dtype=np.int64)
        added = self.lengths - self.shared
        self._added = np.concatenate([[0], added.cumsum()])

    def __len__(self) -> int:
        return len(self.order)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max(initial=0))

    def tokens(self, place: int) -> Counts:
        """The sequence at a sorted place, (length,)."""
        return self._arrays[place]

    def nodes(self, first: int, stop: int, depth: int = 0) -> int:
        """Nodes below a depth that all sequences of a run share.

        Args:
            first: First place of the run.
            stop: The place after its last.
            depth: Leading tokens left out.
        """
        added = int(self._added[stop] - self._added[first + 1])
        return int(self.lengths[first]) - depth + added

    def common(self, first: int, stop: int) -> int:
        """Leading tokens that all sequences of a run share."""
        if stop - first == 1:
            return int(self.lengths[first])
        return int(self.shared[first + 1 : stop].min())


def _common(one: Counts, two: Counts) -> int:
    length = min(len(one), len(two))
    different = np.flatnonzero(one[:length] != two[:length])
    return int(different[0]) if len(different) else length
