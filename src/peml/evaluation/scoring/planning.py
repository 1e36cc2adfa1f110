"""Which tokens are computed together: rows, each a small tree, that continue cached trunks.

::

    five examples (600 tokens) -+- question 1 -+- A          trunk: computed once, kept as keys and
                                |              +- B                 values while its rows need it
                                +- question 2 -+- A          row: one question with its options, a
                                               +- B                 tree in one sequence

Options share their question inside a row through an attention mask, without an extra forward pass.
Rows share the tokens before them through the cache. That takes an extra pass, so a trunk is used
only if it saves enough.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from peml.evaluation.scoring.trie import Trie

_KEYS_LIKE_A_TOKEN = 1024
"""Attending to this many keys costs about as much as the rest of a token's forward pass. A rough
figure for small models; in large ones attention weighs less."""

_SAVED_BY_A_TRUNK = 1 / 4
"""A trunk has to save this share of a batch, since it leaves some passes half empty."""


def _cost(size: int, depth: int) -> float:
    """Work of a row that continues a trunk, in tokens."""
    return size * (1 + (depth + size) / _KEYS_LIKE_A_TOKEN)


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive sorted sequences that are computed as one sequence of a batch.

    They are at the sorted places from `first` to before `stop`; `size` tokens are computed.
    """

    first: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that continue one trunk, and the groups whose longer trunks continue it.

    It covers the sorted places from `first` to before `stop`. Its trunk begins at depth `start`
    (the tokens before are its parent's) and ends at `depth`; the outermost group has an empty
    trunk.
    """

    first: int
    stop: int
    start: int
    depth: int
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]

    def batches(self, tokens: int, longest: int, most: int = sys.maxsize) -> Iterator[list[Row]]:
        """The rows in batches of similar size, largest first.

        Cached tokens count as if each row had its own, and a batch's attention (queries times keys)
        stays within that of a batch of whole sequences. `tokens` is the limit of a batch, padding
        included; `longest` the length of the longest sequence. At most `most` tokens are computed
        at once, cached ones aside; default: all.
        """
        batch: list[Row] = []
        for row in sorted(self.rows, key=lambda row: -row.size):
            size = batch[0].size if batch else row.size
            rows = len(batch) + 1
            fits = rows * size <= most and _fits(rows, size, self.depth, tokens, longest)
            if batch and not fits:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def _fits(rows: int, size: int, depth: int, tokens: int, longest: int) -> bool:
    keys = depth + size
    return rows * keys <= tokens and rows * size * keys <= tokens * longest


def plan_groups(trie: Trie, tokens: int, saving: int | None = None) -> Group:
    """Plans the scoring of all sequences of a trie.

    The trie is of the sequences without their last token, which is only predicted. A trunk must
    save `saving` tokens; default: a quarter of a batch. With 1, every node of the trie is computed
    once.
    """
    needed = int(tokens * _SAVED_BY_A_TRUNK) if saving is None else saving
    return _Planner(trie, tokens, max(needed, 1)).group(0, len(trie), 0, 0)


class _Planner:
    def __init__(self, trie: Trie, tokens: int, saving: int) -> None:
        self.trie, self.tokens, self.saving = trie, tokens, saving

    def group(self, first: int, stop: int, start: int, depth: int) -> Group:
        """The plan for consecutive sequences that share ``depth`` tokens."""
        rows: list[Row] = []
        groups = []
        begin = first
        while begin < stop and self.trie.lengths[begin] == depth:
            begin += 1  # the trunk is the whole sequence
        for low, high, end in sorted(self._trunks(begin, stop, depth)):
            rows.extend(self._rows(begin, low, depth))
            groups.append(self.group(low, high, depth, end))
            begin = high
        rows.extend(self._rows(begin, stop, depth))
        return Group(first, stop, start, depth, tuple(rows), tuple(groups))

    def _trunks(self, first: int, stop: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """The largest ranges of places that are worth a trunk: (first, stop, end of trunk)."""
        waiting = [(first, stop)]
        while waiting:
            low, high = waiting.pop()
            between = self.trie.shared[low + 1 : high]
            if int(between.max(initial=depth)) == depth:
                continue
            rows = self._rows(low, high, depth)
            work = sum(_cost(row.size, depth) for row in rows)
            if work < self.saving:
                continue
            common = int(between.min())
            behind = sum(_cost(row.size, common) for row in self._rows(low, high, common))
            saved = work - behind - _cost(common - depth, depth)
            repeated = (len(rows) - 1) * (common - depth)
            if common > depth and max(saved, repeated) >= self.saving:
                yield low, high, common
            else:
                cuts = [low + 1 + int(at) for at in (between == common).nonzero()[0]]
                waiting.extend(zip([low, *cuts], [*cuts, high], strict=True))

    def _rows(self, first: int, stop: int, depth: int) -> list[Row]:
        """Joins neighbours in a row if they are cheaper together and fit."""
        rows: list[Row] = []
        begin, size = first, 0
        for place in range(first, stop):
            length = int(self.trie.lengths[place]) - depth
            joined = size + length - (int(self.trie.shared[place]) - depth)
            if place > begin:
                apart = _cost(size, depth) + _cost(length, depth)
                fits = _fits(1, joined, depth, self.tokens, self.trie.longest)
                if not fits or _cost(joined, depth) >= apart:
                    rows.append(Row(begin, place, size))
                    begin = place
            size = length if place == begin else joined
        if begin < stop:
            rows.append(Row(begin, stop, size))
        return rows
