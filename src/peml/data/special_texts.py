"""Finds rows that hold the text of a special token, which a tokenizer doesn't read as a text."""

from collections.abc import Iterable, Sequence
from typing import Any

from peml.data.rows import Rows
from peml.tasks import SOURCE_ROW, Task


def describe_special_texts(task: Task, rows: Rows, special: Iterable[str]) -> str:
    """A sentence about rows with the text of a special token in a field; empty if there are none.

    Templates may write such tokens on purpose, so only fields are searched.
    """
    columns = task.columns
    names = tuple(dict.fromkeys((*columns.inputs, *columns.options, *columns.extra)))
    tokens = sorted(filter(None, special), key=len, reverse=True)
    first = {token[0] for token in tokens}
    found = [
        (number, token)
        for number, row in enumerate(rows.iterate(names))
        if (token := _held(row.values(), tokens, first))
    ]
    if not found:
        return ""
    number, token = found[0]
    return (
        f"{len(found):,} of {len(rows):,} rows hold the text of a special token (the first is row "
        f"{rows[number].get(SOURCE_ROW, number)}, from 0, with {token!r}): the model reads it as "
        "that token, as Transformers does; if it is meant as a text, write it otherwise"
    )


def _held(values: Iterable[Any], tokens: Sequence[str], first: set[str]) -> str:
    """The first of the tokens that is in one of the texts, or in a list of them; else empty."""
    for value in values:
        if isinstance(value, list):
            held = _held(value, tokens, first)
        elif isinstance(value, str) and not first.isdisjoint(value):
            held = next((token for token in tokens if token in value), "")
        else:
            continue
        if held:
            return held
    return ""
