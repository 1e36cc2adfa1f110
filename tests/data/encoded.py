"""Encoded splits and word tokenizers without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peml.data.encoding import EncodedSplit
from peml.data.rows import Rows


def encoded_split(
    lengths: Sequence[int], sequences: Sequence[int] | None = None, mark: int = 0
) -> EncodedSplit:
    """Rows of the given lengths; the first token of each sequence is ``mark`` + the row."""
    sequences = sequences or [1] * len(lengths)
    rows: list[dict[str, Any]] = [
        {
            "input_ids": [[mark + row, *range(1, length)]] * count,
            "token_type_ids": [],
            "labels": [],
            "targets": [float(row)] * count,
        }
        for row, (length, count) in enumerate(zip(lengths, sequences, strict=True))
    ]
    sizes, counts = np.asarray(lengths), np.asarray(sequences)
    return EncodedSplit(Rows.from_list(rows), sizes, counts, sizes * counts, 0, counts < 0)
