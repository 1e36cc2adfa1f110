"""Opens a task's source: a local folder, the hub or a generator."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from peml.data.cards import card_configs
from peml.data.files import SUFFIXES, name_of, needed_rows, read_files
from peml.data.folders import TaskMissingError, find_folder, listing, split_files
from peml.data.rows import Rows
from peml.errors import DataError, nearest
from peml.tasks import Task
from peml.tasks.generated import generate

_COMMIT = re.compile("[0-9a-f]{40}")


class Found(NamedTuple):
    """Rows, the file or split that has them, and the split's name."""

    rows: Rows
    place: str
    split: str


Read = Callable[[tuple[str, ...]], Found]
"""Loads the first of several splits that the source has."""


def open_source(task: Task, folder: str | None, *, or_hub: bool) -> tuple[Read, str]:
    """A function that reads the task's splits, and the source's name.

    `folder` is read instead of the task's source.

    Raises:
        TaskMissingError: The task's folder isn't there.
        DataError: A folder or the hub can't be read.
    """
    if folder is not None or task.source.path is not None:
        try:
            with _permission(task):
                place = find_folder(task, folder)
        except TaskMissingError:
            if or_hub and task.source.hub is not None:
                return open_source(task, None, or_hub=False)
            raise
        if folder is None and task.source.subset is not None:
            _refuse_unknown_subset(task, place)
        return lambda names: _from_folder(task, place, names), str(place)
    if task.source.generated is not None:
        name = task.source.generated
        splits = generate(name, task.name)
        generated = {key: Rows.from_list(rows) for key, rows in splits.items()}
        origin = f"generated: {name}"
        return lambda names: _from_splits(task, generated, names, origin), origin
    hub, typed = _from_hub(task)
    origin = "/".join(part for part in (task.source.hub, task.source.subset) if part)
    return lambda names: _from_splits(task, hub, names, origin, typed=typed), origin


def _refuse_unknown_subset(task: Task, folder: Path) -> None:
    """Refuses a configuration that no card has, in whose place the default would be read."""
    subset, known = str(task.source.subset), card_configs(folder)
    if subset not in known:
        raise DataError(
            f"Task {task.name!r}: source.subset is {subset!r}, and the card of {folder} has no "
            f"such configuration.{nearest(subset, known)}",
            allowed=", ".join(known) or "none: it has no README.md that names configurations",
            action="Correct source.subset, or leave it out.",
        )


@contextmanager
def _permission(task: Task) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"Task {task.name!r}: {error.filename} can't be read: permission denied.",
            allowed="a folder that you may list and enter",
            action="Change its permissions, or correct tasks.source.",
        ) from error


def _from_folder(task: Task, folder: Path, names: tuple[str, ...]) -> Found:
    with _permission(task):
        for name in names:
            found = split_files(folder, name, task.source.subset)
            if len(found) > 1:
                listed = (os.path.relpath(name_of(files), folder) for files in found)
                raise DataError(
                    f"Task {task.name!r}: {folder} has the split {name} {len(found)} times: "
                    f"{', '.join(listed)}.",
                    allowed="one file for each split, or all shards of one; those that the "
                    "configs of a README.md name count too",
                    action="Remove or rename the others.",
                )
            for files in found:
                rows = _not_empty(task, read_files(files, task, folder), name_of(files))
                return Found(rows, name_of(files), name)
        there = listing(folder)
    raise DataError(
        f"Task {task.name!r}: {folder} has no file for the split {' or '.join(names)}.",
        allowed=f"{names[0]}{{{','.join(SUFFIXES)}}}; there is {', '.join(there) or 'nothing'}",
        action="Add the file, or name the split in the task's splits. Write other formats as one "
        "of these (datasets: load_dataset(...) or, for a folder of save_to_disk, "
        "load_from_disk(...), then to_parquet of each split).",
    )


def _from_splits(
    task: Task,
    splits: Mapping[str, Rows],
    names: tuple[str, ...],
    origin: str,
    *,
    typed: bool = True,
) -> Found:
    name = next((name for name in names if name in splits), None)
    if name is None:
        raise DataError(
            f"Task {task.name!r}: the source has no split {' or '.join(names)}."
            f"{nearest(names[0], splits)}",
            allowed=", ".join(splits),
            action="Name the split in the task's splits.",
        )
    place = f"split {name!r} of {origin}"
    split = _not_empty(task, needed_rows(splits[name], task, place, typed=typed), place)
    return Found(split, place, name)


def _from_hub(task: Task) -> tuple[dict[str, Rows], bool]:
    """The splits, and whether their source distinguishes texts from numbers."""
    from datasets import ClassLabel, Features, Value, load_dataset

    if Path(str(task.source.hub)).exists():  # which would be read instead, with guessed types
        raise DataError(
            f"Task {task.name!r}: source.hub is {task.source.hub!r}, which is on this machine.",
            allowed="the id of a data set of the hub",
            action="Name a folder as source.path; it holds a JSONL, CSV or Parquet file per split.",
        )
    try:
        load = partial(
            load_dataset, task.source.hub, task.source.subset, revision=task.source.revision
        )
        loaded = load()
        typed = all(split.info.builder_name != "csv" for split in loaded.values())
        if not typed:
            found = next(iter(loaded.values())).features.items()
            texts = {n: f if isinstance(f, ClassLabel) else Value("string") for n, f in found}
            loaded = load(features=Features(texts), keep_default_na=False)  # or 0001 becomes 1
    except Exception as error:  # the hub client raises dozens of exception types
        raise DataError(
            f"Task {task.name!r}: the hub data set {task.source.hub!r} can't be loaded: "
            f"{type(error).__name__}: {error}",
            allowed="a data set of plain files (no code from a hub is run)",
            action="Check the connection and the name, or set tasks.source to a local folder.",
        ) from error
    _refuse_other_revision(task, loaded)
    rows = {name: Rows.of_table(split.with_format("arrow")[:]) for name, split in loaded.items()}
    return rows, typed


def _refuse_other_revision(task: Task, loaded: Mapping[str, Any]) -> None:
    """Refuses rows of another revision: where `datasets` can't reach the hub, it takes its latest.

    Its copies are in folders named by their commits. The library of the hub keeps the commit that a
    branch or tag had when it was last reached. If that isn't known and no revision is asked for,
    any copy is taken.
    """
    from huggingface_hub import constants

    wanted = task.source.revision or "main"
    kept = Path(constants.HF_HUB_CACHE, f"datasets--{task.source.hub}".replace("/", "--"), "refs")
    known = (kept / wanted).is_file()
    if not known and task.source.revision is None:
        return
    commit = (kept / wanted).read_text() if known else wanted
    files = (Path(file["filename"]) for split in loaded.values() for file in split.cache_files)
    folders = {path.parent.name for path in files}
    other = next((name for name in folders if _COMMIT.fullmatch(name) and name != commit), None)
    if other is not None:
        raise DataError(
            f"Task {task.name!r}: the hub wasn't reached, and what is kept of the data set "
            f"{task.source.hub!r} is its revision {other}, not {wanted}.",
            allowed=f"the revision {wanted}",
            action="Connect, set the task's source.revision to the one that is kept, or set "
            "tasks.source to a local folder.",
        )


def _not_empty(task: Task, split: Rows, where: str) -> Rows:
    if len(split) == 0:
        raise DataError(
            f"Task {task.name!r}: {where} has no rows.",
            allowed="one row or more",
            action="Check how the data was written.",
        )
    return split
