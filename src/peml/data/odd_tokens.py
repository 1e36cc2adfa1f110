"""Finds rows whose tokens differ from what was meant, or are the same as another row's."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from peml.data.encoding import EncodedSplit
from peml.data.rows import Rows
from peml.tasks import SOURCE_ROW, Task, TaskRenderer

_MOST = 2000  # rows to compare
_SHARE = 0.05  # a few may differ in capitals or spaces alone, which some tokenizers drop


def describe_same_tokens(task: Task, rows: Rows, encoded: EncodedSplit) -> str:
    """A sentence about different rows with the same tokens; empty if there are hardly any.

    Either the tokenizer reads their texts as unknown tokens, or they were cut to a beginning that
    they share.

    `encoded` are the rows, tokenised.
    """
    renderer, seen, alike = TaskRenderer(task), dict[str, tuple[object, object]](), list[int]()
    pairs = enumerate(zip(islice(rows, _MOST), islice(encoded.rows, _MOST), strict=True))
    for number, (row, columns) in pairs:
        example = renderer.render(row, number, labelled=False)
        read = (example.segments, example.options), (example.prompt, example.turns)
        before = seen.setdefault(str(columns["input_ids"]), read)
        if before[0] != read[0] and before[1] != read[1]:
            alike.append(row.get(SOURCE_ROW, number))
    count = min(len(rows), _MOST)
    if len(alike) <= _SHARE * count:
        return ""
    return (
        f"{len(alike):,} of {count:,} rows have the same tokens as a row with another text (the "
        f"first is row {alike[0]}, from 0): the tokenizer has no tokens for their words, or they "
        "are cut to a beginning that they share"
    )


def describe_special_texts(task: Task, rows: Rows, special: Iterable[str]) -> str:
    """A sentence about rows with the text of a special token in a field; empty if there are none.

    Templates may write such tokens on purpose, so only fields are searched.
    """
    tokens = sorted(filter(None, special), key=len, reverse=True)
    first = {token[0] for token in tokens}
    found = [
        (number, token)
        for number, row in enumerate(rows.iterate(task.columns.shown))
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
