"""Finds rows of one task's evaluation splits in any task's training split.

Benchmarks share rows (MRPC and STS-B) and texts (WNLI and WSC). If their tasks are trained
together, rows seen in one are no longer new in the other. Keys of evaluation rows are held in
memory and training rows are looked up, so time is linear in rows and memory in evaluation rows.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from peml.data.rows import Rows
from peml.data.sources import TaskData
from peml.errors import DataError
from peml.records.plan import LeakageEntry
from peml.tasks import SOURCE_ROW, Task

_LEAST_TEXT = 20  # characters that make it unlikely that two tasks have a text by chance

# Differences between tokenised and untokenised copies of one text. Signs of arithmetic stay.
_UNMARKED = str.maketrans("", "", ".,;:!?\"'`()[]\u2026\u201c\u201d\u2018\u2019\u2013\u2014")
_IN_NUMBER = re.compile(r"[.,:](?=\d)(?<=\d.)")  # 1.5 isn't 15

_SPLITS = ("reported", "development")
_Keys = Callable[[Rows, Task], Iterator[Sequence[bytes]]]


def find_leakage(data: Sequence[TaskData]) -> list[LeakageEntry]:
    """Counts evaluation rows that are in training splits, a task's own included.

    Rows are the same if their input columns are, except for case, white space, marks such as commas
    and quotes outside numbers, and the order of the columns. Labels and options are not compared.
    """
    return _leaks(data, _shared(data, _whole_keys))


def find_shared_texts(data: Sequence[TaskData]) -> list[LeakageEntry]:
    """Counts evaluation rows that share a text, such as a passage, with rows otherwise different.

    Texts are inputs of 20 characters or more.
    """
    whole = _shared(data, _whole_keys)
    parts = _shared(data, _text_keys).items()
    return _leaks(data, {pair: found - whole.get(pair, set()) for pair, found in parts})


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


def _leaks(data: Sequence[TaskData], pairs: _Pairs) -> list[LeakageEntry]:
    """The leaks in the order of the tasks, reported rows first."""
    anywhere: dict[_Split, set[int]] = defaultdict(set)
    for (split, _), shared in pairs.items():
        anywhere[split] |= shared
    return [
        LeakageEntry(
            evaluation=data[number].task.name,
            split=name,
            train=data[trained].task.name,
            rows=len(pairs[(number, name), trained]),
            evaluation_rows=len(getattr(data[number], name)),
            anywhere=len(anywhere[number, name]),
        )
        for (number, name), trained in sorted(
            pairs, key=lambda pair: (pair[0][0], _SPLITS.index(pair[0][1]), pair[1])
        )
        if pairs[(number, name), trained]
    ]


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
    for item in data if shown else ():
        for split in _SPLITS:
            for key, row in _keyed(getattr(item, split), item.task):
                if key not in shown:
                    continue
                of, number = shown[key]
                place = item.origin.reported if split == "reported" else item.origin.train
                raise DataError(
                    f"Task {of.task.name!r}: row {number} of its {of.task.shots.split!r} split, "
                    "which its context shows with its answer, has the same inputs as a "
                    f"{split} row of {item.task.name!r}: row {row} of {place} (from 0).",
                    allowed="shown rows that no task is evaluated on",
                    action="Remove one of them, or name other rows to show "
                    "(method.context.choose: FILE).",
                )


def _keyed(rows: Rows, task: Task) -> Iterator[tuple[bytes, int]]:
    """The key of each row, and its number in the source."""
    if len(rows):
        yield from zip(input_keys(rows, task), rows.array(SOURCE_ROW).tolist(), strict=True)


def input_keys(rows: Rows, task: Task) -> Iterator[bytes]:
    """A 16-byte key of each row's input columns together, in the order of the rows."""
    return (_key("\x1f".join(sorted(texts))) for texts in _inputs(rows, task))


def _whole_keys(rows: Rows, task: Task) -> Iterator[Sequence[bytes]]:
    return ((key,) for key in input_keys(rows, task))


def _text_keys(rows: Rows, task: Task) -> Iterator[Sequence[bytes]]:
    """Keys of each row's inputs by themselves, short ones left out."""
    for texts in _inputs(rows, task):
        yield [_key(text) for text in texts if len(text) >= _LEAST_TEXT]


def _inputs(rows: Rows, task: Task) -> Iterator[list[str]]:
    """Each row's inputs without case, white space and marks; accents in one Unicode form."""
    for row in rows.iterate(task.columns.inputs):
        composed = (unicodedata.normalize("NFC", str(text)) for text in row.values())
        folded = [_IN_NUMBER.sub("\0", text.casefold()) for text in composed]
        # A text of marks only keeps them, or all such texts would be equal.
        yield ["".join((text.translate(_UNMARKED).split()) or text.split()) for text in folded]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
