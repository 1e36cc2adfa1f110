"""Loading a task's rows from a local folder, the hub or a generator, as three raw splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from peml.data.fields import flat_split
from peml.data.files import SUFFIXES, check_columns, read_file
from peml.data.groups import read_groups
from peml.data.settings import TasksSettings
from peml.data.splits import carve_development, draw_groups, draw_indices
from peml.errors import DataError, nearest
from peml.tasks import SOURCE_ROW, Task, generate

__all__ = [
    "LoadedTasks",
    "Origin",
    "SkippedTask",
    "TaskData",
    "TaskMissingError",
    "load_all",
    "load_source",
    "load_task_data",
]


class TaskMissingError(DataError):
    """A task has no data where it was looked for; the one error ``tasks.missing`` can skip."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task's rows came from, for people.

    Attributes:
        name: Folder, hub data set or generator.
        train: File or split of the train and development rows; empty where there are none.
        reported: File or split of the reported rows.
    """

    name: str = ""
    train: str = ""
    reported: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task's rows, before rendering.

    Each split holds the columns the task needs, and ``SOURCE_ROW``, a row's number in the file
    or split it came from.

    Attributes:
        task: The task.
        train: What the task is trained on; no rows if it is evaluated only.
        development: Carved from train; everything is chosen on it.
        reported: Reported, and never used to choose.
        origin: Where the rows came from.
    """

    task: Task
    train: Dataset
    development: Dataset
    reported: Dataset
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class SkippedTask:
    """A task that was left out because its data is missing, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """What :func:`load_all` found.

    Attributes:
        data: The tasks with data, in order.
        skipped: The tasks without, to be reported.
    """

    data: tuple[TaskData, ...]
    skipped: tuple[SkippedTask, ...]


def load_all(tasks: Iterable[Task], settings: TasksSettings, seed: int) -> LoadedTasks:
    """Loads every task; with ``missing: skip``, tasks without data are listed instead.

    With ``missing: hub``, a task that isn't in the folder is loaded from its own hub data set.

    Raises:
        TaskMissingError: A task has no data and ``missing`` is ``refuse``, or none has any.
        DataError: As :func:`load_task_data`.
    """
    data, skipped = [], []
    for task in tasks:
        try:
            data.append(load_task_data(task, settings, seed))
        except TaskMissingError as error:
            if settings.missing != "skip":
                raise
            skipped.append(SkippedTask(task.name, error.problem))
    if not data:
        raise TaskMissingError(
            f"No task has data: {'; '.join(item.reason for item in skipped) or 'none was named'}",
            allowed="one task with data or more",
            action="Correct tasks.source.",
        )
    return LoadedTasks(tuple(data), tuple(skipped))


def load_task_data(task: Task, settings: TasksSettings, seed: int) -> TaskData:
    """Loads one task: source, development split, then the row limits of ``settings``.

    Args:
        task: The task.
        settings: ``source``, ``rows``, ``development_rows`` and ``evaluation_rows`` are read.
        seed: Seed of the development split and of the draws. Keep it fixed across the runs that
            are to be compared.

    Raises:
        TaskMissingError: The task's folder isn't there.
        DataError: A file or split is missing, unreadable, empty, or lacks a column.
    """
    hub = settings.missing == "hub"
    train, reported, origin = load_source(task, settings.source, or_hub=hub)
    development = train
    if task.splits.train is not None:
        train, development = carve_development(train, task, seed)
    return TaskData(
        task=task,
        train=_draw(train, task, settings.rows, seed),
        development=_draw(development, task, settings.development_rows, seed),
        reported=_draw(reported, task, settings.evaluation_rows, seed),
        origin=origin,
    )


def load_source(
    task: Task, folder: str | None = None, *, or_hub: bool = False
) -> tuple[Dataset, Dataset, Origin]:
    """Loads a task's train and reported split whole, and says where they came from.

    The train split of a task that is evaluated only is empty.

    Args:
        task: The task.
        folder: Folder with one folder a task, read instead of the task's own source.
        or_hub: Whether a task that isn't in the folder is loaded from the hub, if it is there.

    Raises:
        TaskMissingError: The task's folder isn't there.
        DataError: A file or split is missing, unreadable, empty, or lacks a column.
    """
    if folder is not None or task.source.path is not None:
        try:
            return _from_disk(task, folder)
        except TaskMissingError:
            if or_hub and task.source.hub is not None:
                return load_source(task)
            raise
    if task.source.generated is not None:
        name = task.source.generated
        splits = generate(name, task.name)
        generated = DatasetDict({key: Dataset.from_list(rows) for key, rows in splits.items()})
        origin = f"generated: {name}"
        return _both_splits(task, origin, lambda names: _from_dict(task, generated, names, origin))
    hub = _from_hub(task)
    origin = "/".join(part for part in (task.source.hub, task.source.subset) if part)
    return _both_splits(task, origin, lambda names: _from_dict(task, hub, names, origin))


def _draw(split: Dataset, task: Task, most: int | None, seed: int) -> Dataset:
    if most is None or most >= len(split):
        return split
    groups = read_groups(split, task)
    if groups is not None:
        return split.select(draw_groups(groups, most, f"rows-{seed}"))
    return split.select(draw_indices(len(split), most, seed))


_Found = tuple[Dataset, str]  # rows, and the file or split they are in


def _both_splits(
    task: Task, name: str, load: Callable[[tuple[str, ...]], _Found]
) -> tuple[Dataset, Dataset, Origin]:
    train = None if task.splits.train is None else load((task.splits.train,))
    reported, place = load(task.splits.reported)
    if train is None:
        return reported.select([]), reported, Origin(name, reported=place)
    return train[0], reported, Origin(name, train[1], place)


def _from_disk(task: Task, source: str | None) -> tuple[Dataset, Dataset, Origin]:
    try:
        folder = _task_folder(task, source)
        return _both_splits(task, str(folder), lambda names: _from_folder(task, folder, names))
    except PermissionError as error:
        raise DataError(
            f"Task {task.name!r}: {error.filename} can't be read: permission denied.",
            allowed="a folder that you may list and enter",
            action="Change its permissions, or correct tasks.source.",
        ) from error


def _task_folder(task: Task, source: str | None) -> Path:
    """The folder with a task's files; its own source may be that folder or the one above."""
    root = Path(source if source is not None else task.source.path or "")
    places = [root / name for name in (task.name, *task.source.folders)]
    folder = next((place for place in places if place.is_dir()), places[0])
    if source is None and not folder.is_dir():
        folder = root
    if not folder.is_dir():
        found = _listing(root)
        raise TaskMissingError(
            f"Task {task.name!r}: there is no folder {str(folder)!r}."
            f"{nearest(task.name, found) if root.is_dir() else ''}",
            allowed=f"one of {', '.join(found)} (what {root} holds)"
            if found
            else f"a folder of task folders; {root} is missing or empty",
            action="Correct tasks.source, leave the task out with tasks.exclude, or set "
            "tasks.missing to skip or hub.",
        )
    return folder


def _from_folder(task: Task, folder: Path, names: tuple[str, ...]) -> _Found:
    for name in names:
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            if os.path.lexists(path):  # a link that leads nowhere is refused by its name
                return _not_empty(task, read_file(path, task), str(path)), str(path)
    found = _listing(folder)
    raise DataError(
        f"Task {task.name!r}: {folder} has no file for the split {' or '.join(names)}.",
        allowed=f"{names[0]}{{{','.join(SUFFIXES)}}}; there is {', '.join(found) or 'nothing'}",
        action="Add the file, or name the split in the task's splits.",
    )


def _from_dict(task: Task, splits: DatasetDict, names: tuple[str, ...], origin: str) -> _Found:
    name = next((name for name in names if name in splits), None)
    if name is None:
        raise DataError(
            f"Task {task.name!r}: the source has no split {' or '.join(names)}."
            f"{nearest(names[0], splits)}",
            allowed=", ".join(splits),
            action="Name the split in the task's splits.",
        )
    place = f"split {name!r}"
    split = flat_split(splits[name], task.columns)
    check_columns(task, split.column_names, place)
    split = _not_empty(task, split.select_columns(list(task.columns.needed)), place)
    return split.add_column(SOURCE_ROW, list(range(len(split)))), f"{place} of {origin}"


def _from_hub(task: Task) -> DatasetDict:
    try:
        loaded = load_dataset(task.source.hub, task.source.subset, revision=task.source.revision)
    except Exception as error:  # the hub client raises dozens of kinds; all mean "not loaded"
        raise DataError(
            f"Task {task.name!r}: the hub data set {task.source.hub!r} can't be loaded: "
            f"{type(error).__name__}: {error}",
            allowed="a data set of plain files (no code from a hub is run)",
            action="Check the connection and the name, or set tasks.source to a local folder.",
        ) from error
    return loaded


def _not_empty(task: Task, split: Dataset, where: str) -> Dataset:
    if len(split) == 0:
        raise DataError(
            f"Task {task.name!r}: {where} has no rows.",
            allowed="one row or more",
            action="Check how the data was written.",
        )
    return split


def _listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
