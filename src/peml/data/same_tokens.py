"""Finds rows with different texts and equal tokens, which a model can't tell apart."""

from itertools import islice

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
