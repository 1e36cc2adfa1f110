"""A tree of tokens laid out as one sequence: positions and attention mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peml.evaluation.scoring.trie import Trie

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Tokens of one row or trunk. The tokens whose predictions are read come last.

    Attributes:
        tokens: Token ids, (size,).
        depths: Position of each token in its original sequence, (size,).
        sees: Whether a token (row) attends to another (column), (size, size).
        wanted: Number of tokens at the end whose predictions are read.
        slots: Index of the token that predicts each target, (targets,).
        targets: The predicted tokens, (targets,).
        requests: The request that each target belongs to, (targets,).
    """

    tokens: Indices
    depths: Indices
    sees: np.ndarray[Any, np.dtype[np.bool_]]
    wanted: int
    slots: Indices
    targets: Indices
    requests: Indices


def lay_out(
    trie: Trie,
    sequences: Sequence[Sequence[int]],
    firsts: Sequence[int],
    run: tuple[int, int],
    start: int,
    end: int | None = None,
) -> Layout:
    """Lays out the nodes of consecutive sorted sequences between two depths.

    Args:
        trie: Sequences without their last token.
        sequences: The whole sequences, by request.
        firsts: Index of the first scored token of each request.
        run: First sorted place, and the place after the last.
        start: Depth of the first node; the sequences share all tokens before it.
        end: For a trunk, which all sequences share: the depth after its last node. None: a row.
    """
    first, stop = run
    tokens: list[Indices] = []
    depths: list[Indices] = []
    reads: list[tuple[Indices, Indices, int]] = []
    size = trie.nodes(first, stop, start) if end is None else end - start
    sees = np.zeros((size, size), dtype=np.bool_)
    path = np.zeros(trie.longest, dtype=np.int64)  # slot of each depth of the current sequence
    filled = 0
    for place in range(first, stop):
        last = int(trie.lengths[place]) if end is None else end
        known = start if place == first else min(max(int(trie.shared[place]), start), last)
        fresh = slice(filled, filled + last - known)
        if known > start:
            sees[fresh] = sees[path[known - 1]]
        sees[fresh, fresh] = np.tri(last - known, dtype=np.bool_)
        path[known:last] = np.arange(filled, filled + last - known)
        tokens.append(trie.tokens(place)[known:last])
        depths.append(np.arange(known, last))
        filled += last - known
        request = int(trie.order[place])
        low = max(firsts[request] - 1, start)
        if low < last:
            targets = np.asarray(sequences[request][low + 1 : last + 1], dtype=np.int64)
            reads.append((path[low:last].copy(), targets, request))
    return _ordered(np.concatenate(tokens), np.concatenate(depths), sees, reads)


def _ordered(
    tokens: Indices,
    depths: Indices,
    sees: np.ndarray[Any, np.dtype[np.bool_]],
    reads: list[tuple[Indices, Indices, int]],
) -> Layout:
    """Moves the tokens whose predictions are read to the end.

    With explicit positions and mask, attention does not depend on the order of tokens.
    """
    empty = np.zeros(0, dtype=np.int64)
    slots = np.concatenate([empty, *(read[0] for read in reads)])
    targets = np.concatenate([empty, *(read[1] for read in reads)])
    requests = np.concatenate([empty, *(np.full(len(r[0]), r[2], np.int64) for r in reads)])
    is_read = np.zeros(len(tokens), dtype=np.bool_)
    is_read[slots] = True
    order = np.argsort(is_read, kind="stable")
    moved = np.empty_like(order)
    moved[order] = np.arange(len(order))
    sees = sees[order][:, order]
    wanted = int(is_read.sum())
    return Layout(tokens[order], depths[order], sees, wanted, moved[slots], targets, requests)
