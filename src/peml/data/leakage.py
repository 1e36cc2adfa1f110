"""Finding rows of one task's evaluation splits in any task's training split.

Benchmarks share texts (MRPC and STS-B, WNLI and WSC). When their tasks are trained together, a
row seen in one is no longer new in the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from datasets import Dataset

from peml.data.sources import TaskData
from peml.errors import DataError
from peml.tasks import Task

__all__ = ["Leak", "LeakageReport", "drop_leaked", "find_leakage", "input_keys"]

_BATCH = 2000

# What tokenised and untokenised copies of one text differ in. Signs of arithmetic stay.
_UNMARKED = str.maketrans("", "", ".,;:!?\"'`()[]\u2026\u201c\u201d\u2018\u2019\u2013\u2014")


@dataclass(frozen=True, slots=True)
class Leak:
    """How many rows of an evaluation split are in a training split.

    Attributes:
        evaluation_task: Task whose evaluation rows were found.
        split: ``reported`` or ``development``.
        train_task: Task in whose training split they are.
        rows: Number of evaluation rows found.
        evaluation_rows: Number of rows of the evaluation split.
    """

    evaluation_task: str
    split: str
    train_task: str
    rows: int
    evaluation_rows: int

    def __str__(self) -> str:
        return (
            f"{self.rows} of {self.evaluation_rows} {self.split} rows of {self.evaluation_task} "
            f"are in the train rows of {self.train_task}"
        )


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """All leaks found, in the order of the tasks; empty if there are none.

    Attributes:
        leaks: One for each evaluation split and training split that share rows.
    """

    leaks: tuple[Leak, ...]

    def rows(self, split: str | None = None) -> int:
        """Evaluation rows found, counted once for each training split, of one split or all."""
        return sum(leak.rows for leak in self.leaks if split in (None, leak.split))


def find_leakage(data: Sequence[TaskData]) -> LeakageReport:
    """Counts evaluation rows that are in training splits, a task's own included.

    Rows are the same when their input columns are: upper and lower case, white space, marks such
    as commas and quotes, and the order of the columns aside. Labels and options are not compared.
    Rows are held as 16-byte keys.
    """
    trained = {item.task.name: set(input_keys(item.train, item.task)) for item in data}
    leaks = []
    for item in data:
        for split, rows in (("reported", item.reported), ("development", item.development)):
            keys = input_keys(rows, item.task)
            for train_task, train_keys in trained.items():
                found = sum(key in train_keys for key in keys)
                if found:
                    leaks.append(Leak(item.task.name, split, train_task, found, len(keys)))
    return LeakageReport(tuple(leaks))


def drop_leaked(data: Sequence[TaskData]) -> tuple[tuple[TaskData, ...], Mapping[str, int]]:
    """Takes every train row out that is in any task's evaluation splits.

    Returns:
        The tasks with the remaining train rows, and the number of rows dropped by task name
        (only tasks that lost any).

    Raises:
        DataError: A task would be left without train rows.
    """
    evaluated: set[bytes] = set()
    for item in data:
        evaluated.update(input_keys(item.reported, item.task))
        evaluated.update(input_keys(item.development, item.task))
    cleaned, dropped = [], {}
    for item in data:
        keys = input_keys(item.train, item.task)
        kept = [index for index, key in enumerate(keys) if key not in evaluated]
        if keys and not kept:
            raise DataError(
                f"Task {item.task.name!r}: all {len(keys)} train rows are in an evaluation split.",
                allowed="train rows that are new to every evaluation split",
                action="Correct the data, or set tasks.leakage to report.",
            )
        if len(kept) < len(keys):
            dropped[item.task.name] = len(keys) - len(kept)
            item = replace(item, train=item.train.select(kept))
        cleaned.append(item)
    return tuple(cleaned), dropped


def input_keys(rows: Dataset, task: Task) -> list[bytes]:
    """Returns a 16-byte key of each row's input columns, in the order of the rows."""
    columns = list(task.columns.inputs)
    keys: list[bytes] = []
    for batch in rows.select_columns(columns).iter(batch_size=_BATCH):
        keys.extend(_key(texts) for texts in zip(*(batch[name] for name in columns), strict=True))
    return keys


def _key(texts: Iterable[object]) -> bytes:
    normalised = sorted(_normalise(str(text)) for text in texts)
    return hashlib.blake2b("\x1f".join(normalised).encode(), digest_size=16).digest()


def _normalise(text: str) -> str:
    folded = text.casefold()
    # a text of nothing but marks keeps them, or all such texts would be the same
    return "".join(folded.translate(_UNMARKED).split()) or "".join(folded.split())
