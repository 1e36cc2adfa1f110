"""Loads a task's splits from a local folder, the hub or a generator."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from peml.data.folders import TaskMissingError
from peml.data.opening import Found, Read, open_source
from peml.data.rows import Rows
from peml.data.settings import TasksSettings
from peml.data.split_checks import find_extra_kinds, refuse_one_based, refuse_two_readings
from peml.data.splits import (
    carve_development,
    choose_shots,
    draw_groups,
    draw_indices,
    read_groups,
)
from peml.errors import DataError
from peml.records.plan import SkippedTask
from peml.tasks import SOURCE_ROW, Shots, Task, TaskRenderer


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a task's rows, for messages and reports.

    `name` is a folder, hub data set or generator. `train` is the file or split of the train and
    development rows (empty if there are none), `reported` that of the reported rows.
    """

    name: str = ""
    train: str = ""
    reported: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task's rows, before rendering.

    Each split has the columns that the task needs, and ``SOURCE_ROW``, the row's number in its file
    or split.

    Attributes:
        task: The task, with its shots as ``shots.examples``.
        train: Rows to train on; empty if the task is only evaluated.
        development: Rows taken from train, used for all choices.
        reported: Rows to report, never used to select anything.
        origin: Where the rows came from.
        shown: Rows that a context shows, in its order; empty without one.
    """

    task: Task
    train: Rows
    development: Rows
    reported: Rows
    origin: Origin = Origin()
    shown: Rows = field(default_factory=lambda: Rows.from_list([]))


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """The result of :func:`load_all`."""

    data: tuple[TaskData, ...]
    skipped: tuple[SkippedTask, ...]


def load_all(
    tasks: Iterable[Task], settings: TasksSettings, seed: int, *, trains_shown: bool = False
) -> LoadedTasks:
    """Loads every task.

    If a task has no data, ``missing: skip`` lists it as skipped, and ``missing: hub`` loads it from
    its hub data set.

    Raises:
        TaskMissingError: A task has no data and ``missing`` is ``refuse``, or no task has data.
        DataError: As :func:`load_task_data`.
    """
    data, skipped = [], []
    for task in tasks:
        try:
            data.append(load_task_data(task, settings, seed, trains_shown=trains_shown))
        except TaskMissingError as error:
            if settings.missing != "skip":
                raise
            skipped.append(SkippedTask(name=task.name, reason=error.problem))
    if not data:
        raise TaskMissingError(
            f"No task has data: {'; '.join(item.reason for item in skipped) or 'none was named'}",
            allowed="at least one task with data",
            action="Correct tasks.source.",
        )
    return LoadedTasks(tuple(data), tuple(skipped))


def load_task_data(
    task: Task, settings: TasksSettings, seed: int, *, trains_shown: bool = False
) -> TaskData:
    """Loads one task: source, development split, then the row limits of ``settings``.

    Use the same seed for runs that you want to compare. `trains_shown` says whether rows that a
    context shows are train rows too.

    Raises:
        TaskMissingError: The task's folder isn't there.
        DataError: A file or split is missing, unreadable, empty, or lacks a column.
    """
    opened, name = open_source(task, settings.source, or_hub=settings.missing == "hub")
    read = cache(opened)  # shots are mostly rows of the train split
    train, reported, origin = _read_splits(task, read, name)
    shown, whole = task, Rows.from_list([])
    if task.shots.count:
        shown, whole = _read_shots(task, read)
    development = train
    if len(train):
        train, development = carve_development(train, task, seed)
    train = _draw(train, task, _most_trained(task, settings.rows), seed)
    if task.splits.train is not None and task.context:
        if trains_shown:
            train = _with_shown(train, shown, whole)
        _refuse_too_few(task, len(train))
    return TaskData(
        task=shown,
        train=train,
        development=_draw(development, task, settings.development_rows, seed),
        reported=_draw(reported, task, settings.evaluation_rows, seed),
        origin=origin,
        shown=whole.select(shown.shots.rows if task.context else ()),
    )


def _refuse_too_few(task: Task, rows: int) -> None:
    """Refuses a context that takes so many rows that fewer are left than there are labels."""
    needed = len(task.labels) if task.type.has_labels else 1
    if rows < needed:
        count = task.shots.count
        raise DataError(
            f"Task {task.name!r}: its context shows {count} rows, and {rows} are left to train on.",
            allowed=f"at least {needed} train rows beside those shown"
            + (", one for each label" if needed > 1 else ""),
            action="Lower method.context.shots, give more rows, or raise tasks.rows.",
        )


def _most_trained(task: Task, rows: int | None) -> int | None:
    """The largest number of rows to read for training, including those that a context shows."""
    if rows is None or not task.context:
        return rows
    if rows <= task.shots.count:
        raise DataError(
            f"Task {task.name!r}: of {rows} train rows (tasks.rows), {task.shots.count} are shown "
            "in the context, so none is left to train on.",
            allowed=f"tasks.rows of {task.shots.count + 1} or more",
            action="Raise tasks.rows, or lower method.context.shots.",
        )
    return rows - task.shots.count


def _with_shown(train: Rows, task: Task, whole: Rows) -> Rows:
    """The train rows, and also the rows of the whole split that the task's context shows."""
    shots = task.shots
    if shots.split != task.splits.train:
        raise DataError(
            f"Task {task.name!r}: its shots are rows of {shots.split!r}, and its train rows of "
            f"{task.splits.train!r}, so rows that are shown can't be trained on.",
            allowed="shots of the train split",
            action="Leave out method.context.leave_one_out, or the task's shots.split.",
        )
    return whole.select(np.union1d(train.array(SOURCE_ROW), np.asarray(shots.rows, np.int64)))


def load_source(
    task: Task, folder: str | None = None, *, or_hub: bool = False
) -> tuple[Rows, Rows, Origin]:
    """Loads a task's train and reported splits, without the rows that are shots, and their origin.

    The train split is empty if the task is only evaluated, or if all its rows are shots. `folder`
    (see `tasks.source`) is read instead of the task's source; `or_hub` loads a task that isn't in
    it from the hub.

    Raises:
        TaskMissingError: The task's folder isn't there.
        DataError: A file or split is missing, unreadable, empty, or lacks a column.
    """
    return _read_splits(task, *open_source(task, folder, or_hub=or_hub))


def _read_splits(task: Task, read: Read, name: str) -> tuple[Rows, Rows, Origin]:
    """The result of `load_source`, read from a source of this name."""
    train = None if task.splits.train is None else _without_shots(task, read((task.splits.train,)))
    reported = _without_shots(task, read(task.splits.reported))
    if not len(reported.rows):
        raise DataError(
            f"Task {task.name!r}: all rows of {reported.place} are shots.",
            allowed="fewer shots than rows, or shots of another split",
            action="Lower tasks.shots, or name another split in the task's shots.split.",
        )
    used = [reported] if train is None else [train, reported]
    refuse_one_based(task, [found.rows for found in used])
    if task.shots.count and task.shots.split is not None:
        used.append(read((task.shots.split,)))
    splits = {found.place: found.rows for found in used}
    refuse_two_readings(task, splits)
    find_extra_kinds(task, splits)
    if train is None:
        return reported.rows.select([]), reported.rows, Origin(name, reported=reported.place)
    return train.rows, reported.rows, Origin(name, train.place, reported.place)


def with_kinds(data: TaskData) -> Task:
    """The task with the types of its extra fields, which rows to predict must have too."""
    return _of_kinds(data.task, {"train": data.train, "reported": data.reported})


def _of_kinds(task: Task, splits: Mapping[str, Rows]) -> Task:
    kinds = find_extra_kinds(task, splits)
    changed = task.columns.model_copy(update={"kinds": {**kinds, **task.columns.kinds}})
    return task.model_copy(update={"columns": changed}) if kinds else task


def load_shots(task: Task, folder: str | None = None, *, or_hub: bool = False) -> Task:
    """The task with its shots rendered as ``shots.examples``; unchanged if it has none.

    Load the task's rows with the original task, since only that one leaves out the shots. For
    folder and hub see `load_source`.

    Raises:
        DataError: The split is missing, has too few rows, or one of them can't be rendered.
    """
    if not task.shots.count:
        return task
    read, _ = open_source(task, folder, or_hub=or_hub)
    return _read_shots(task, read)[0]


def load_shown(task: Task, folder: str | None = None) -> Task:
    """The task for a model that was trained without it: shots and kinds of fields, of one split.

    Raises:
        DataError: As `load_shots`; or the labels seem to be counted from 1.
    """
    read, name = open_source(task, folder, or_hub=False)
    shown, rows = _read_shots(task, read)
    refuse_one_based(task, [rows])
    return _of_kinds(shown, {name: rows})


def _read_shots(task: Task, read: Read) -> tuple[Task, Rows]:
    """Like `load_shots` of a task that has some; also returns all rows of their split."""
    count = task.shots.count
    split = task.shots.split or task.splits.train
    if split is None:
        raise DataError(
            f"Task {task.name!r} has no train split to take {count} shots from.",
            allowed="a split that the source has",
            action="Set the task's shots.split, or write shots.examples.",
        )
    rows = read((split,)).rows
    if len(rows) < count:
        option = "method.context.shots" if task.context else "tasks.shots"
        raise DataError(
            f"Task {task.name!r}: {count} shots are asked for, and {split!r} has {len(rows)} rows.",
            allowed=f"at most {len(rows)} shots",
            action=f"Lower {option}, or name another split in the task's shots.split.",
        )
    _refuse_unknown_rows(task, len(rows), split)
    renderer = TaskRenderer(task)
    numbers = choose_shots(rows, task)
    examples = tuple(renderer.render_solved(rows[n], n) for n in numbers)
    shots = Shots(split=split, examples=examples)
    if task.context:  # the model keeps the rows' numbers beside their texts
        _refuse_hidden_labels(task, [renderer.gold(rows[n], n) for n in numbers], split)
        shots = shots.model_copy(update={"rows": tuple(numbers)})
    return task.model_copy(update={"shots": shots}), rows


def _refuse_hidden_labels(task: Task, shown: Sequence[Any], split: str) -> None:
    """Refuses balanced shots that lack a label although there is room for each."""
    hidden = [label for index, label in enumerate(task.labels) if index not in shown]
    balanced = task.shots.choose == "balanced" and not task.shots.rows
    if balanced and hidden and task.shots.count >= len(task.labels):
        raise DataError(
            f"Task {task.name!r}: the context should show every label in turn, and {split!r} has "
            f"no row of {', '.join(map(repr, hidden))}.",
            allowed="a row of each label",
            action="Give such rows, correct the labels, or set method.context.choose: first.",
        )


def _refuse_unknown_rows(task: Task, rows: int, split: str) -> None:
    """Refuses chosen row numbers that are too few, or larger than the split."""
    chosen, count = task.shots.rows, task.shots.count
    if not chosen:
        return
    if len(chosen) < count:
        raise DataError(
            f"Task {task.name!r}: {count} shots are asked for, and {len(chosen)} rows are chosen.",
            allowed=f"at most {len(chosen)} shots",
            action="Choose more rows, or show fewer.",
        )
    beyond = [number for number in chosen[:count] if number >= rows]
    if beyond:
        raise DataError(
            f"Task {task.name!r}: row {beyond[0]} is chosen to be shown, and {split!r} has {rows} "
            "rows.",
            allowed=f"0 to {rows - 1}",
            action="Correct the chosen rows.",
        )


def _without_shots(task: Task, found: Found) -> Found:
    if not task.shots.count or found.split != (task.shots.split or task.splits.train):
        return found
    shown = set(choose_shots(found.rows, task))
    left = [number for number in range(len(found.rows)) if number not in shown]
    return found._replace(rows=found.rows.select(left))


def _draw(split: Rows, task: Task, most: int | None, seed: int) -> Rows:
    if most is None or most >= len(split):
        return split
    groups = read_groups(split, task)
    if groups is None:
        return split.select(draw_indices(len(split), most, seed))
    return split.select(draw_groups(groups, most, f"rows-{seed}"))
