"""Tokenises a split once, into a cached, memory-mapped Arrow file."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from peml.data.mapped import cache_folder, in_batches
from peml.data.rows import Row, Rows
from peml.errors import DataError, placed
from peml.tasks import SOURCE_ROW, Example, Task, TaskRenderer

_FORMAT = 10  # increased when the encoding of a row changes, so that old caches are not used
_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.list_(pa.int32())),
        "token_type_ids": pa.list_(pa.list_(pa.int8())),
        "labels": pa.list_(pa.list_(pa.int32())),
        "targets": pa.list_(pa.float32()),
        "length": pa.int32(),
        "sequences": pa.int32(),
        "tokens": pa.int32(),
        "cut": pa.int32(),
        "weight": pa.float32(),
        "altered": pa.bool_(),
        "gap": pa.string(),
    }
)


class EncodesExamples(Protocol):
    """The part of a model family that encoding needs."""

    name: ClassVar[str]
    version: ClassVar[int]
    tokenizer: Any
    max_length: int

    @property
    def tokenizer_rules(self) -> str:
        """A text that identifies how the tokenizer works."""

    @property
    def special_texts(self) -> frozenset[str]:
        """The texts that the tokenizer reads as special tokens."""

    def encode(self, task: Task, example: Example, purpose: Any) -> Sequence[Any]:
        """Sequences of one example."""

    def chat_template(self, task: Task) -> str:
        """The chat template for a task's prompts; empty if the task doesn't use one."""

    def altered_target(self, task: Task, example: Example) -> tuple[str, str] | None:
        """An answer and its changed form, if tokenising and decoding change it; else None."""


@dataclass(frozen=True)
class EncodedSplit:
    """A tokenised split on disk.

    Attributes:
        rows: One row per example; token lists nested by sequence.
        lengths: Longest sequence of each example in tokens, (examples,).
        sequences: Sequences of each example, (examples,).
        tokens: Input tokens of each example over all its sequences, (examples,).
        cut: Number of examples that were cut to the length limit.
        altered: Whether a target changes when its tokens are decoded, (examples,).
    """

    rows: Rows
    lengths: np.ndarray[Any, np.dtype[np.int32]]
    sequences: np.ndarray[Any, np.dtype[np.int32]]
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    cut: int
    altered: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.lengths)


def encode_split(
    rows: Rows,
    task: Task,
    family: EncodesExamples,
    purpose: str,
    *,
    too_long: str = "cut",
    weights: Mapping[int, float] | None = None,
    cache: Path | None = None,
    where: str = "",
) -> EncodedSplit:
    """Renders and tokenises every row, or opens the cached result.

    The cache is keyed by the rows, the task, the tokenizer, the chat template and the length limit.

    `purpose` is ``train``, ``score`` or ``generate``. `weights` has the weight of a row's loss by
    its label (default: 1). With `too_long` ``refuse``, rows over the family's limit are refused,
    not cut. `cache` is by default `cache_folder()`; `where` names the rows in messages.

    Raises:
        DataError: A row can't be rendered or tokenised, or is too long and ``too_long`` is
            ``refuse``.
    """
    key = _key(rows, task, family, purpose, weights)
    path = (cache or cache_folder()) / "encoded" / f"{task.name}-{key}.arrow"
    batches = in_batches(_encode(rows, task, family, purpose, where, weights or {}), _SCHEMA)
    split = _split(Rows.cached(path, key, lambda: (_SCHEMA, batches)))
    if too_long == "refuse" and split.cut:
        cut = split.rows.array("cut")
        row = int(cut.argmax())
        with placed(where), placed(_spell_row(task, rows[row].get(SOURCE_ROW, row))):
            raise DataError(
                f"the text is {cut[row]} tokens longer than the limit.",
                allowed=f"at most {family.max_length} tokens (model.max_length)",
                action="raise model.max_length, shorten the row, or set model.too_long: cut",
            )
    return split


def encode_rows(
    examples: Sequence[Example], task: Task, family: EncodesExamples, purpose: str
) -> EncodedSplit:
    """Tokenises rendered rows in memory, for prediction; long rows are cut.

    Raises:
        DataError: A row can't be tokenised.
    """
    rows = [encode_row(example, task, family, purpose) for example in examples]
    return _split(Rows.of_table(pa.Table.from_pylist(rows, schema=_SCHEMA)))


def encode_row(
    example: Example, task: Task, family: EncodesExamples, purpose: str, number: int | None = None
) -> Row:
    """Tokenises one rendered row: the columns of an `EncodedSplit`, with lists as values.

    `number` is the row's number for messages; default: its index.

    Raises:
        DataError: The row can't be tokenised.
    """
    with placed(_spell_row(task, example.index if number is None else number)):
        sequences = family.encode(task, example, purpose)
    return {
        "input_ids": [s.input_ids for s in sequences],
        "token_type_ids": [s.token_type_ids for s in sequences if s.token_type_ids],
        "labels": [s.labels for s in sequences if s.labels],
        "targets": [s.target for s in sequences],
        "length": max(len(s.input_ids) for s in sequences),
        "sequences": len(sequences),
        "tokens": sum(len(s.input_ids) for s in sequences),
        "cut": max(s.cut for s in sequences),
        "weight": 1.0,
        "altered": any(s.altered for s in sequences),
        "gap": sequences[0].gap,
    }


def _spell_row(task: Task, number: int) -> str:
    return f"Task {task.name!r}, row {number} (from 0)"


def _encode(
    rows: Rows,
    task: Task,
    family: EncodesExamples,
    purpose: str,
    where: str,
    weights: Mapping[int, float],
) -> Iterator[Row]:
    renderer = TaskRenderer(task)
    for index, row in enumerate(rows):
        with placed(where):
            example = renderer.render(row, index)
            encoded = encode_row(example, task, family, purpose, row.get(SOURCE_ROW))
        if weights:
            encoded["weight"] = weights.get(int(example.label), 1.0)
        yield encoded


def _split(rows: Rows) -> EncodedSplit:
    length, sequences, tokens, cut = map(rows.array, ("length", "sequences", "tokens", "cut"))
    altered = rows.array("altered")
    return EncodedSplit(rows, length, sequences, tokens, int((cut > 0).sum()), altered)


def _key(
    rows: Rows,
    task: Task,
    family: EncodesExamples,
    purpose: str,
    weights: Mapping[int, float] | None,
) -> str:
    parts = [
        str(_FORMAT),
        rows.key,
        task.model_dump_json(exclude={"source", "development", "metrics", "description"}),
        f"{family.name} {family.version}",
        family.tokenizer_rules,
        family.chat_template(task),
        str(family.max_length),
        purpose,
        json.dumps(weights),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
