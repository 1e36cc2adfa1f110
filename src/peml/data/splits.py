"""Takes the development split from train, and draws parts of a split."""

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice, repeat, zip_longest
from random import Random
from typing import Any

import numpy as np

from peml.data.rows import Indices, Rows
from peml.errors import DataError
from peml.tasks import Task


def carve_development(train: Rows, task: Task, seed: int) -> tuple[Rows, Rows]:
    """Splits a task's train rows into train and development.

    The development split is used for all choices, so that the reported split is used for none. The
    task's ``development`` sets its size. Classification is stratified by label, and groups of rows
    stay together. Rows keep their order, and don't depend on a later limit of the train rows.

    Raises:
        DataError: There are fewer than two rows, or a single group.
    """
    count = len(train)
    if count < 2:
        raise DataError(
            f"Task {task.name!r}: {count} train row(s) can't be split into train and development.",
            allowed="two train rows or more",
            action="Give more rows; a hundred is a sensible least.",
        )
    size = round(count * task.development.fraction)
    size = max(1, min(size, task.development.at_most, count - 1))
    kept, carved = _carve(train, task, size, seed)
    if not len(kept):
        raise DataError(
            f"Task {task.name!r}: all {count} train rows are of one group.",
            allowed="rows of two groups or more (columns.group)",
            action="Give more rows, or correct columns.group.",
        )
    return train.select(kept), train.select(carved)


def divide_development(development: Rows, task: Task, share: float, seed: int) -> tuple[Rows, Rows]:
    """Takes rows for a search from a task's development split: the remaining rows, those taken.

    Stratified and grouped as in `carve_development`. No rows are taken if there are fewer than two
    rows or a single group.
    """
    count = len(development)
    if count > 1:
        size = max(1, min(round(share * count), count - 1))
        kept, carved = _carve(development, task, size, seed)
        if len(kept):
            return development.select(kept), development.select(carved)
    return development, development.select([])


def _carve(rows: Rows, task: Task, size: int, seed: int) -> tuple[Indices, Indices]:
    """Numbers of the remaining rows, and of ``size`` rows: stratified, or whole groups."""
    groups = read_groups(rows, task)
    if groups is not None:
        carved = np.asarray(draw_groups(groups, size, f"development-{seed}"))
        return np.setdiff1d(np.arange(len(rows)), carved), carved
    label = task.columns.label
    labels = (row[label] for row in rows.iterate([label]))
    return carve_indices(labels if task.type.has_labels else repeat(None, len(rows)), size, seed)


def carve_indices(strata: Iterable[Any], size: int, seed: int) -> tuple[Indices, Indices]:
    """Splits the indices in two, stratified: the rest, and ``size`` carved indices.

    Counts per stratum are rounded by largest remainder. Both arrays are ascending. `strata` has a
    label for each row, or one value for all.
    """
    groups = members_of(strata)
    count = sum(map(len, groups))
    quotas = [size * len(group) / count for group in groups]
    takes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(groups)), key=lambda g: (takes[g] - quotas[g], g))
    for group in by_remainder[: size - sum(takes)]:
        takes[group] += 1
    random = Random(f"development-{seed}")
    is_carved = np.zeros(count, dtype=np.bool_)
    for rows, take in zip(groups, takes, strict=True):
        is_carved[rows[random.sample(range(len(rows)), take)]] = True
    return np.flatnonzero(~is_carved), np.flatnonzero(is_carved)


def read_groups(rows: Rows, task: Task) -> list[Hashable] | None:
    """The group of each row, its values of ``columns.group``; None if the task has no groups."""
    if not task.columns.group:
        return None
    return list(zip(*(rows.column(name) for name in task.columns.group), strict=True))


def choose_shots(rows: Rows, task: Task) -> list[int]:
    """Of all rows of a split, the numbers of a task's shots, in the order they are shown in."""
    most = min(task.shots.count, len(rows))
    if task.shots.rows:
        return list(task.shots.rows[:most])
    if task.shots.choose == "first" or not task.type.has_labels:
        return list(range(most))
    label = task.columns.label
    members = members_of(row[label] for row in rows.iterate([label]))
    return list(islice(in_turn(members), most))


def members_of(values: Iterable[Hashable]) -> list[Indices]:
    """The indices of each value, values in the order of their first index."""
    members: dict[Hashable, array[int]] = {}
    for index, value in enumerate(values):
        members.setdefault(value, array("q")).append(index)
    return [np.frombuffer(group, dtype=np.int64) for group in members.values()]


def in_turn(members: Iterable[Iterable[int]]) -> Iterator[int]:
    """One index of each group in turn, without those groups that have come to their end."""
    turns = zip_longest(*members)
    return (int(index) for turn in turns for index in turn if index is not None)


def draw_indices(count: int, most: int, seed: int) -> Indices:
    """At most ``most`` of ``range(count)``, ascending; larger draws contain smaller ones."""
    order = array("q", range(count))
    Random(f"rows-{seed}").shuffle(order)
    return np.sort(np.frombuffer(order, dtype=np.int64)[:most])


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, spread from beginning to end."""
    kept = min(count, most)
    return [number * count // kept for number in range(kept)]


def draw_groups(groups: Sequence[Hashable], most: int, seed: str) -> list[int]:
    """Row numbers of whole groups, ascending: one group, and more while they fit in ``most`` rows.

    Larger draws contain smaller ones.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    shuffled = list(members.values())
    Random(seed).shuffle(shuffled)
    drawn = shuffled[0]
    for more in shuffled[1:]:
        if len(drawn) + len(more) > most:
            break
        drawn = drawn + more
    return sorted(drawn)
