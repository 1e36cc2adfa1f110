"""Finds rows that hold the text of a special token, which a tokenizer doesn't read as a text."""

import re
from collections.abc import Iterable
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peml.data.rows import Rows
from peml.tasks import SOURCE_ROW, Task


def describe_special_texts(task: Task, rows: Rows, special: Iterable[str]) -> str:
    """A sentence about rows with the text of a special token in a field; empty if there are none.

    Templates may write such tokens on purpose, so only fields are searched.
    """
    tokens = sorted(filter(None, special), key=len, reverse=True)
    if not tokens or not len(rows):
        return ""
    columns = task.columns
    names = dict.fromkeys((*columns.inputs, *columns.options, *columns.extra))
    fields = [rows.table.column(name).combine_chunks() for name in names]
    pattern = "|".join(map(_quote, tokens))
    found = reduce(np.logical_or, (_holding(field, pattern) for field in fields))
    if not found.any():
        return ""
    first = rows[int(found.argmax())]
    held = re.search(pattern, " ".join(str(first[name]) for name in names))
    return (
        f"{int(found.sum()):,} of {len(rows):,} rows hold the text of a special token (the first "
        f"is row {first.get(SOURCE_ROW, int(found.argmax()))}, from 0, with "
        f"{held[0] if held else tokens[0]!r}): the model reads it as that token, as Transformers "
        "does; if it is meant as a text, write it otherwise"
    )


def _holding(field: pa.Array, pattern: str) -> np.ndarray:
    """Which rows of a column of texts, or of lists of texts, match a pattern, (rows,)."""
    if pa.types.is_list(field.type):
        inner = _holding(pc.list_flatten(field), pattern)
        rows = np.asarray(pc.list_parent_indices(field))[inner]
        return np.isin(np.arange(len(field)), rows)
    if not pa.types.is_string(field.type):
        return np.zeros(len(field), dtype=bool)
    matches = pc.fill_null(pc.match_substring_regex(field, pattern), False)
    return np.asarray(matches, dtype=bool)


def _quote(text: str) -> str:
    """A text as a pattern, in the common part of Python's and Arrow's syntax."""
    return re.sub(r"([^\w\s])", r"\\\1", text)
