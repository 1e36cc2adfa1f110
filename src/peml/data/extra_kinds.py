"""Finds the types of a task's extra fields in its rows; rows to predict must have the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa

from peml.data.rows import Rows
from peml.errors import DataError
from peml.tasks import FieldKind, Task

if TYPE_CHECKING:
    from peml.data.sources import TaskData

_KINDS: Mapping[pa.DataType, FieldKind] = MappingProxyType(
    {pa.string(): "text", pa.int64(): "number", pa.float64(): "number", pa.bool_(): "boolean"}
)


def find_extra_kinds(task: Task, splits: Mapping[str, Rows]) -> dict[str, FieldKind]:
    """The types of a task's extra fields; lists, and fields without any value, are left out.

    `splits` are the task's rows by their file or split.

    Raises:
        DataError: A field has different types in two splits.
    """
    columns = task.columns
    other = {*columns.inputs, *columns.options, columns.keys, columns.label, *columns.group}
    found: dict[str, tuple[FieldKind, str]] = {}
    for where, rows in splits.items():
        for name in (each for each in columns.extra if each not in other):
            values = rows.table.column(name)
            kind = _KINDS.get(values.type)
            if kind is None or values.null_count == len(values):
                continue
            before, place = found.setdefault(name, (kind, where))
            if kind != before:
                raise DataError(
                    f"Task {task.name!r}: the field {name!r} is a {kind} in {where}, and a "
                    f"{before} in {place}.",
                    allowed="one kind in all splits",
                    action=f"Correct the data, or for CSV set columns.kinds: {{{name}: {kind}}}.",
                    field=name,
                )
    return {name: kind for name, (kind, _) in found.items()}


def with_kinds(data: TaskData) -> Task:
    """The task with the types of its extra fields, which rows to predict must have too."""
    columns = data.task.columns
    kinds = find_extra_kinds(data.task, {"train": data.train, "reported": data.reported})
    changed = columns.model_copy(update={"kinds": {**kinds, **columns.kinds}})
    return data.task.model_copy(update={"columns": changed}) if kinds else data.task
