"""Groups of rows, such as all answers to one question, which are never split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from peml.data.rows import Rows
from peml.tasks import Task


def read_groups(rows: Rows, task: Task) -> list[Hashable] | None:
    """The group of each row, its values of ``columns.group``; None if the task has no groups."""
    if not task.columns.group:
        return None
    return list(zip(*(rows.column(name) for name in task.columns.group), strict=True))


def gather_groups(groups: Sequence[Hashable]) -> list[list[int]]:
    """The row numbers of each group, groups in the order of their first rows."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    return list(members.values())
