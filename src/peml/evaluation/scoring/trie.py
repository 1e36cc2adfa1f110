"""The trie of many token sequences, stored as a sorted list with what neighbours share.

::

    sorted sequences        shared with the one before        nodes it adds
    the cat sat             0                                 3
    the cat slept           2                                 1
    the dog                 1                                 1
    a fox                   0                                 2

A subtree is a range of neighbours, and its size is a difference of two cumulative sums.
"""

from collections.abc import Sequence

import numpy as np

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


class Trie:
    """Token sequences in lexicographic order.

    Sequences of different tasks share nothing, since routed layers compute them differently.

    Attributes:
        order: Index of the sequence at each sorted place, (sequences,).
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
        """Number of nodes of a range of places, without the first ``depth`` tokens.

        The range is from `first` to before `stop`; all its sequences share those tokens.
        """
        added = int(self._added[stop] - self._added[first + 1])
        return int(self.lengths[first]) - depth + added


def _common(one: Counts, two: Counts) -> int:
    length = min(len(one), len(two))
    different = np.flatnonzero(one[:length] != two[:length])
    return int(different[0]) if len(different) else length
