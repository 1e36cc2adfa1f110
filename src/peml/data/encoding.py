"""Tokenising a split once: cached as Arrow, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset, Features, Value
from datasets import List as ListOf
from pyarrow import ArrowInvalid

from peml.data.mapped import release_pages, remap
from peml.errors import DataError, placed
from peml.files import disk_errors
from peml.tasks import SOURCE_ROW, Example, Task, TaskRenderer

__all__ = ["EncodedSplit", "EncodesExamples", "cache_folder", "encode_rows", "encode_split"]

_FORMAT = 4  # raised when the encoding of a row changes, so that old caches are not read
_FEATURES = Features(
    {
        "input_ids": ListOf(ListOf(Value("int32"))),
        "token_type_ids": ListOf(ListOf(Value("int8"))),
        "labels": ListOf(ListOf(Value("int32"))),
        "targets": ListOf(Value("float32")),
        "length": Value("int32"),
        "sequences": Value("int32"),
        "tokens": Value("int32"),
        "cut": Value("int32"),
    }
)


class EncodesExamples(Protocol):
    """The part of a model family that encoding needs."""

    name: ClassVar[str]
    tokenizer: Any
    max_length: int

    @property
    def tokenizer_rules(self) -> str:
        """The tokenizer as a text that is the same whenever it tokenises the same."""

    def encode(self, task: Task, example: Example, purpose: Any) -> Sequence[Any]:
        """Sequences of one example."""


@dataclass(frozen=True)
class EncodedSplit:
    """A tokenised split on disk.

    Attributes:
        dataset: One row an example; token lists nested by sequence.
        lengths: Longest sequence of each example in tokens, (examples,).
        sequences: Sequences of each example, (examples,).
        tokens: Input tokens of each example, its sequences together, (examples,).
        cut: Examples that lost tokens to the length limit.
    """

    dataset: Dataset
    lengths: np.ndarray[Any, np.dtype[np.int32]]
    sequences: np.ndarray[Any, np.dtype[np.int32]]
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    cut: int

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """Columns of some rows; their pages are let go of."""
        columns: dict[str, list[Any]] = self.dataset[rows]
        release_pages(self.dataset)
        return columns


def cache_folder() -> Path:
    """Where tokenised data is kept: ``PEML_CACHE``, or ``~/.cache/peml``."""
    return Path(os.environ.get("PEML_CACHE", Path.home() / ".cache" / "peml"))


def encode_split(
    dataset: Dataset,
    task: Task,
    family: EncodesExamples,
    purpose: str,
    *,
    too_long: str = "cut",
    cache: Path | None = None,
    where: str = "",
) -> EncodedSplit:
    """Renders and tokenises every row, or opens the cached result.

    The cache is keyed by the rows, the task, the tokenizer and the length limit.

    Args:
        dataset: Raw rows.
        task: How to read them.
        family: Whose inputs to make.
        purpose: ``train``, ``score`` or ``generate``.
        too_long: ``cut`` or ``refuse`` rows longer than the family's limit.
        cache: Folder for the cached files; default `cache_folder()`.
        where: What to call the rows in messages, such as a file.

    Raises:
        DataError: A row can't be rendered or tokenised, or is too long and must not be cut.
    """
    if not len(dataset):  # the library leaves the columns of an empty split as they are
        return _split(Dataset.from_dict({name: [] for name in _FEATURES}, features=_FEATURES))
    key = _fingerprint(dataset, task, family, purpose)
    folder = (cache or cache_folder()) / "encoded"
    path = folder / f"{task.name}-{key}.arrow"
    with disk_errors(folder), _readable(path):
        folder.mkdir(parents=True, exist_ok=True)
        encoded = dataset.map(
            _encoder(dataset, task, family, purpose, where),
            with_indices=True,
            batched=True,
            remove_columns=dataset.column_names,
            features=_FEATURES,
            cache_file_name=str(path),
            load_from_cache_file=True,
            new_fingerprint=key,
            desc=f"encoding {task.name}",
        )
    split = _split(remap(encoded))
    if too_long == "refuse" and split.cut:
        cut = np.asarray(split.dataset.with_format("numpy")["cut"][:])
        row = int(cut.argmax())
        with placed(where), placed(_spell_row(task, dataset[row].get(SOURCE_ROW, row))):
            raise DataError(
                f"the text is {cut[row]} tokens longer than the limit.",
                allowed=f"at most {family.max_length} tokens (model.max_length)",
                action="raise model.max_length, shorten the row, or set model.too_long: cut",
            )
    return split


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ArrowInvalid as error:
        raise DataError(
            f"the cached file {path} is damaged: {error}",
            action="delete it; it will be made again",
        ) from error


def encode_rows(
    examples: Sequence[Example], task: Task, family: EncodesExamples, purpose: str
) -> EncodedSplit:
    """Tokenises rendered rows in memory, for prediction; too long ones are cut.

    Raises:
        DataError: A row can't be tokenised.
    """
    rows = []
    for example in examples:
        with placed(_spell_row(task, example.index)):
            rows.append(_columns(family.encode(task, example, purpose)))
    return _split(Dataset.from_list(rows, features=_FEATURES))


def _spell_row(task: Task, number: int) -> str:
    return f"Task {task.name!r}, row {number} (from 0)"


def _encoder(
    dataset: Dataset, task: Task, family: EncodesExamples, purpose: str, where: str
) -> Callable[[Mapping[str, list[Any]], list[int]], dict[str, list[Any]]]:
    renderer = TaskRenderer(task)

    def encode(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in _FEATURES}
        for index, *values in zip(indices, *batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            with placed(where):
                example = renderer.render(row, index)
                with placed(_spell_row(task, row.get(SOURCE_ROW, index))):
                    encoded = _columns(family.encode(task, example, purpose))
            for name, value in encoded.items():
                columns[name].append(value)
        release_pages(dataset)
        return columns

    return encode


def _columns(sequences: Sequence[Any]) -> dict[str, Any]:
    """An example's sequences as one row of an encoded split."""
    return {
        "input_ids": [s.input_ids for s in sequences],
        "token_type_ids": [s.token_type_ids for s in sequences if s.token_type_ids],
        "labels": [s.labels for s in sequences if s.labels],
        "targets": [s.target for s in sequences],
        "length": max(len(s.input_ids) for s in sequences),
        "sequences": len(sequences),
        "tokens": sum(len(s.input_ids) for s in sequences),
        "cut": max(s.cut for s in sequences),
    }


def _split(encoded: Dataset) -> EncodedSplit:
    # Of a fresh table, read as it is: the library's own way costs some milliseconds a column.
    length, sequences, tokens, cut = (
        encoded.data.column(name).to_numpy() for name in ("length", "sequences", "tokens", "cut")
    )
    release_pages(encoded)
    return EncodedSplit(encoded, length, sequences, tokens, int((cut > 0).sum()))


def _fingerprint(dataset: Dataset, task: Task, family: EncodesExamples, purpose: str) -> str:
    parts = [
        str(_FORMAT),
        str(dataset._fingerprint),
        task.model_dump_json(exclude={"source", "development", "metrics", "description"}),
        str(family.name),
        family.tokenizer_rules,
        str(family.max_length),
        purpose,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
