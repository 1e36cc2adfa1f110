"""Finds a task's folder in a local source, directly or in its suite's folder.

::

DATA/sst2/train.jsonl        a folder per task
DATA/glue/sst2/train.jsonl   or a folder per suite, with a folder per task
DATA/sst2/train-00000-of-00002.parquet   as in a downloaded data set of the hub; maybe in `data`
DATA/sst2/README.md                      whose `configs` name the files of splits

Hyphens and underscores in both names are interchangeable. A task that is found twice is refused.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from peml.data.cards import card_files, card_options
from peml.data.files import SUFFIXES
from peml.errors import DataError, nearest
from peml.tasks import Task

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")
_INNER = "data"
"""Where repositories of the hub hold the files of their only data set."""
_MOST_MARKS = 8  # hyphens and underscores up to which all combinations are tried


class TaskMissingError(DataError):
    """A task has no data; the only error that ``tasks.missing: skip`` skips."""


def find_folder(task: Task, source: str | None) -> Path:
    """The folder with a task's files.

    The task's name is tried before its ``source.folder``. Without `source`, the task's
    ``source.path`` is searched, which may also be the task's folder.

    Raises:
        TaskMissingError: There is no such folder.
        DataError: There are several.
    """
    root = Path(source if source is not None else task.source.path or "")
    itself = [root] if source is None else []
    empty: list[Path] = []
    for names in (_own_names(task), *((name,) for name in task.source.folders)):
        places = [*_places(root, task.source.suite, names), *itself]
        holding = {place.resolve(): place for place in reversed(places) if _holds(place, task)}
        found = list(holding.values())[::-1]  # each folder once, even if several names lead to it
        if len(found) > 1:
            raise DataError(
                f"Task {task.name!r} is in {len(found)} folders: {', '.join(map(str, found))}.",
                allowed="one folder that holds its files (hyphen and underscore are alike)",
                action="Remove the others, or set tasks.source to the right one.",
            )
        if found:
            return found[0]
        empty += [place for place in places if place.is_dir()]
        itself = []
    if empty:  # says which files it lacks when they are read
        return empty[0]
    raise _missing(task, root)


def split_files(folder: Path, split: str, subset: str | None = None) -> list[tuple[Path, ...]]:
    """The files of a split in a folder: each a whole one, all shards of one, or a card's files.

    `subset` is the name of a card's configuration.

    Raises:
        DataError: A shard is missing, or has a number beyond their count; or a card names files
            of two kinds for the split, or options that change what is read of them.
    """
    # `lexists`, so that a dangling link is refused where it is read
    whole = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    found: list[tuple[Path, ...]] = [(path,) for path in whole if os.path.lexists(path)]
    places = (folder, folder / _INNER)
    sets = _shards(
        place / name
        for place in places
        for name in listing(place)
        if (shard := _SHARD.fullmatch(name)) and shard[1] == split
    )
    found += (tuple(shards) for shards in sets.values())
    named = _card_files(folder, split, subset)
    if named and all({*named} != {*files} for files in found):
        found.append(named)
    for files in found:
        _refuse_options(folder, files[0], subset, named=files[0] in named)
    return found


def _shards(paths: Iterable[Path]) -> dict[tuple[Path, str, str], list[Path]]:
    """Shards by their folder, name and count, without other files.

    Raises:
        DataError: One is missing, or has a number beyond their count.
    """
    sets: dict[tuple[Path, str, str], list[Path]] = {}
    for path in paths:
        if shard := _SHARD.fullmatch(path.name):
            sets.setdefault((path.parent, shard[1], shard[3]), []).append(path)
    for (place, name, count), shards in sets.items():
        wanted = {f"{name}-{number:05}-of-{count}.parquet" for number in range(int(count))}
        if odd := sorted({path.name for path in shards} ^ wanted):
            raise DataError(
                f"{place} has {len(shards)} of {int(count)} files {name}-*-of-{count}.parquet; "
                f"{odd[0]} is {'missing' if odd[0] in wanted else 'none of them'}.",
                allowed="all files of a split",
                action="Add the others; without them, rows would be missing.",
            )
    return sets


def _refuse_options(folder: Path, path: Path, subset: str | None, *, named: bool) -> None:
    if options := card_options(folder, path, subset, named=named):
        raise DataError(
            f"README.md in {folder} has {path.name} read with {', '.join(options)}, which PEML "
            "doesn't follow.",
            allowed="CSV with a header line and commas, or JSONL or Parquet, whole files in UTF-8",
            action="Write the split as one of these (datasets: load_dataset(...)['train']"
            ".to_json('train.jsonl')), in a folder without that README.md.",
        )


def _card_files(folder: Path, split: str, subset: str | None) -> tuple[Path, ...]:
    """The files that a card gives a split; none if they can't be read."""
    named = card_files(folder, split, subset, SUFFIXES)
    _shards(path for path, by_pattern in named.items() if by_pattern)
    kinds = {next((s for s in SUFFIXES if path.name.endswith(s)), None) for path in named}
    if len(kinds) > 1:
        raise DataError(
            f"README.md gives the split {split} files of several kinds: "
            f"{', '.join(map(str, named))}.",
            allowed=f"files of one kind: {', '.join(SUFFIXES)}",
            action="Write the split as one file of a kind, and remove it from README.md.",
        )
    return () if None in kinds else tuple(named)


def listing(folder: Path) -> list[str]:
    """Sorted names in a folder; empty if there is no folder."""
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _own_names(task: Task) -> tuple[str, ...]:
    """The task's name, with and without the name of its suite in front."""
    short = task.name.removeprefix(f"{task.source.suite}-")
    return tuple(dict.fromkeys((task.name, short)))


def _places(root: Path, suite: str | None, names: tuple[str, ...]) -> Iterator[Path]:
    for name in _spellings(names[0]):
        yield root / name
    for above in () if suite is None else _spellings(suite):
        for name in names if (root / above).is_dir() else ():
            yield from (root / above / spelt for spelt in _spellings(name))


def _spellings(name: str) -> Iterator[str]:
    """A name, then all variants of its hyphens and underscores."""
    yield name
    pieces = re.split("[-_]", name)
    if len(pieces) - 1 <= _MOST_MARKS:
        for marks in product("-_", repeat=len(pieces) - 1):
            spelt = "".join(a + b for a, b in zip(pieces, (*marks, ""), strict=True))
            if spelt != name:
                yield spelt


def _holds(folder: Path, task: Task) -> bool:
    """Whether a file of one of the task's splits is in a folder."""
    named = (task.splits.train, task.shots.split, *task.splits.reported)
    return folder.is_dir() and any(
        split_files(folder, split, task.source.subset) for split in named if split
    )


def _missing(task: Task, root: Path) -> TaskMissingError:
    found = listing(root)
    looked = [root / task.name]
    if task.source.suite is not None:
        looked.append(root / task.source.suite / _own_names(task)[-1])
    return TaskMissingError(
        f"Task {task.name!r}: there is no folder {' or '.join(repr(str(p)) for p in looked)}."
        f"{nearest(task.name, found) if root.is_dir() else ''}",
        allowed=f"one of {', '.join(found)} (what {root} holds)"
        if found
        else f"a folder of task folders; {root} is missing or empty",
        action="Correct tasks.source, leave the task out with tasks.exclude, or set "
        "tasks.missing to skip or hub.",
    )
