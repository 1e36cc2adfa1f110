"""Finds rows of one task's evaluation splits in any task's training split.

Benchmarks share rows (MRPC and STS-B) and texts (WNLI and WSC). If their tasks are trained
together, rows seen in one are no longer new in the other. Keys of evaluation rows are held in
memory and training rows are looked up, so time is linear in rows and memory in evaluation rows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from peml.data.rows import Rows
from peml.data.sources import TaskData
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, Task

_LEAST_TEXT = 20  # characters that make it unlikely that two tasks have a text by chance

# Differences between tokenised and untokenised copies of one text. Signs of arithmetic stay.
_UNMARKED = str.maketrans("", "", ".,;:!?\"'`()[]\u2026\u201c\u201d\u2018\u2019\u2013\u2014")

_SPLITS = ("reported", "development")
_Keys = Callable[[Rows, Task], Iterator[Sequence[bytes]]]


@dataclass(frozen=True, slots=True)
class Leak:
    """How many rows of an evaluation split are in a training split.

    `rows` of the `evaluation_rows` in the evaluation task's split (``reported`` or ``development``)
    are in the train split of `train_task`, and `anywhere` counts those in any task's. `whole` rows
    are equal in all inputs; others share a single text.
    """

    evaluation_task: str
    split: str
    train_task: str
    rows: int
    evaluation_rows: int
    anywhere: int
    whole: bool = True

    @property
    def share(self) -> float:
        """Share of the evaluation split that is in any task's training split."""
        return self.anywhere / self.evaluation_rows

    def __str__(self) -> str:
        are = "are in" if self.whole else "share a text with"
        return (
            f"{self.rows} of {self.evaluation_rows} {self.split} rows of {self.evaluation_task} "
            f"{are} the train rows of {self.train_task}"
        )


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """All leaks found, in the order of the tasks; empty if there are none.

    Attributes:
        leaks: One for each evaluation split and training split that share rows.
        texts: One for each that share a text in rows that otherwise differ, such as a passage
            with other questions. Empty if this wasn't searched for.
    """

    leaks: tuple[Leak, ...]
    texts: tuple[Leak, ...] = ()

    def rows(self, split: str | None = None) -> int:
        """Evaluation rows found, counted once for each training split, of one split or all."""
        return sum(leak.rows for leak in self.leaks if split in (None, leak.split))


def find_leakage(data: Sequence[TaskData], *, texts: bool = False) -> LeakageReport:
    """Counts evaluation rows that are in training splits, a task's own included.

    Rows are the same if their input columns are, except for case, white space, marks such as commas
    and quotes, and the order of the columns. Labels and options are not compared. With `texts`,
    single inputs of 20 characters or more are compared as well.
    """
    whole = _shared(data, lambda rows, task: ((key,) for key in input_keys(rows, task)))
    parts = _shared(data, _text_keys) if texts else {}
    apart = {pair: found - whole.get(pair, set()) for pair, found in parts.items()}
    return LeakageReport(_leaks(data, whole), _leaks(data, apart, whole=False))


_Split = tuple[int, str]
_Pairs = dict[tuple[_Split, int], set[int]]


def _shared(data: Sequence[TaskData], keys: _Keys) -> _Pairs:
    """Evaluation rows with a key of a training split, by (evaluation task, split), train task."""
    evaluated: dict[bytes, list[tuple[_Split, int]]] = {}
    for number, item in enumerate(data):
        for split in _SPLITS:
            for row, found in enumerate(keys(getattr(item, split), item.task)):
                for key in found:
                    evaluated.setdefault(key, []).append(((number, split), row))
    pairs: _Pairs = defaultdict(set)
    for number, item in enumerate(data):
        trained = {k for found in keys(item.train, item.task) for k in found if k in evaluated}
        for key in trained:
            for leaked_split, row in evaluated[key]:
                pairs[leaked_split, number].add(row)
    return dict(pairs)


def _leaks(data: Sequence[TaskData], pairs: _Pairs, *, whole: bool = True) -> tuple[Leak, ...]:
    """The leaks in the order of the tasks, reported rows first."""
    anywhere: dict[_Split, set[int]] = defaultdict(set)
    for (split, _), shared in pairs.items():
        anywhere[split] |= shared
    leaks = []
    for pair in sorted(pairs, key=lambda p: (p[0][0], _SPLITS.index(p[0][1]), p[1])):
        split, trained = pair
        item, rows = data[split[0]], len(pairs[pair])
        if rows:
            names = item.task.name, split[1], data[trained].task.name
            total = len(getattr(item, split[1]))
            leaks.append(Leak(*names, rows, total, len(anywhere[split]), whole))
    return tuple(leaks)


def drop_leaked(data: Sequence[TaskData]) -> tuple[tuple[TaskData, ...], Mapping[str, int]]:
    """Removes every train row that is in any task's evaluation splits.

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
        rows = len(item.train)
        new = (key not in evaluated for key in input_keys(item.train, item.task))
        kept = np.flatnonzero(np.fromiter(new, dtype=np.bool_, count=rows))
        if rows and not len(kept):
            raise DataError(
                f"Task {item.task.name!r}: all {rows} train rows are in an evaluation split.",
                allowed="train rows that are new to every evaluation split",
                action="Correct the data, or set tasks.leakage to report.",
            )
        if len(kept) < rows:
            dropped[item.task.name] = rows - len(kept)
            item = replace(item, train=item.train.select(kept))
        cleaned.append(item)
    return tuple(cleaned), dropped


def refuse_shown(data: Sequence[TaskData]) -> None:
    """Refuses a context that shows a development or reported row of any task.

    Raises:
        DataError: Names both rows.
    """
    shown: dict[bytes, tuple[TaskData, int]] = {}
    for item in data:
        for key, row in _keyed(item.shown, item.task):
            shown.setdefault(key, (item, row))
    if not shown:
        return
    for item in data:
        for split in _SPLITS:
            for key, row in _keyed(getattr(item, split), item.task):
                if key in shown:
                    raise _shown_twice(*shown[key], item, split, row)


def _keyed(rows: Rows, task: Task) -> Iterator[tuple[bytes, int]]:
    """The key of each row, and its number in the source."""
    if len(rows):
        yield from zip(input_keys(rows, task), rows.array(SOURCE_ROW).tolist(), strict=True)


def _shown_twice(of: TaskData, row: int, item: TaskData, split: str, other: int) -> DataError:
    place = item.origin.reported if split == "reported" else item.origin.train
    return DataError(
        f"Task {of.task.name!r}: row {row} of its {of.task.shots.split!r} split, which its context "
        f"shows with its answer, has the same inputs as a {split} row of {item.task.name!r}: row "
        f"{other} of {place} (from 0).",
        allowed="shown rows that no task is evaluated on",
        action="Remove one of them, or name other rows to show (method.context.choose: FILE).",
    )


def input_keys(rows: Rows, task: Task) -> Iterator[bytes]:
    """A 16-byte key of each row's input columns together, in the order of the rows."""
    for texts in _inputs(rows, task):
        yield _key("\x1f".join(sorted(texts)))


def _text_keys(rows: Rows, task: Task) -> Iterator[list[bytes]]:
    """Keys of each row's inputs by themselves, short ones left out."""
    for texts in _inputs(rows, task):
        yield [_key(text) for text in texts if len(text) >= _LEAST_TEXT]


def _inputs(rows: Rows, task: Task) -> Iterator[list[str]]:
    for row in rows.iterate(task.columns.inputs):
        yield [_normalise(str(text)) for text in row.values()]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _normalise(text: str) -> str:
    folded = text.casefold()
    # a text of marks only keeps them, or all such texts would be equal
    return "".join(folded.translate(_UNMARKED).split()) or "".join(folded.split())
