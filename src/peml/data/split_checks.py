"""Checks across a task's splits: how integers of labels are read, and kinds of extra fields."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from peml.data.rows import Row, Rows
from peml.data.task_columns import INDEXED, NAMED
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, Task
from peml.tasks.columns import FieldKind
from peml.tasks.matching import find_value, read_integer, spell_number

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CHANCE = 1e-3  # of no row with the first option right, if all options are right equally often
_FEW = 2  # labels: with one of two missing, all rows are of one class
_KINDS: Mapping[pa.DataType, FieldKind] = MappingProxyType(
    {
        pa.string(): "text",
        pa.int64(): "number",
        pa.float64(): "number",
        pa.bool_(): "boolean",
        pa.list_(pa.string()): "list",
    }
)


def refuse_one_based(task: Task, splits: Sequence[Rows]) -> None:
    """Refuses index labels if none is 0, and if that is too unlikely by chance.

    Raises:
        DataError: The labels seem to be counted from 1; names both remedies.
    """
    columns = task.columns
    if len(task.labels) > _FEW:
        _refuse_classes(task, splits)
    if columns.choices is None or columns.keys or columns.label in columns.kinds:
        return
    count, chance = 0, 1.0
    for row in (row for rows in splits for row in rows):
        label, options = row[columns.label], _options(task, row)
        if not read_integer(label) or find_value(label, options):
            return
        count += 1
        chance *= 1 - 1 / max(len(options), 2)
    if chance > _CHANCE:
        return
    raise DataError(
        f"Task {task.name!r}: the label of none of {count:,} rows is 0, as if they were counted "
        "from 1.",
        allowed="indices from 0, keys, or texts of options",
        action=f'Set columns.keys: ["1", "2", ...] if they count from 1; columns.kinds: '
        f"{{{columns.label}: number}} if they count from 0, and the first option is never right.",
        field=columns.label,
    )


def _refuse_classes(task: Task, splits: Sequence[Rows]) -> None:
    """Refuses classes whose labels all were indices, none of them 0."""
    label, names = task.columns.label, task.labels
    if any(rows.table.schema.field(label).metadata != INDEXED for rows in splits):
        return
    count = sum(map(len, splits))
    if (1 - 1 / len(names)) ** count > _CHANCE:
        return
    if any(row[label] == names[0] for rows in splits for row in rows.iterate([label])):
        return
    raise DataError(
        f"Task {task.name!r}: the label of none of {count:,} rows is 0, as if they were counted "
        f"from 1: 1 means {names[1]!r}, and no row is {names[0]!r}.",
        allowed="indices from 0, or names of labels",
        action="Write names, or subtract 1, if they count from 1; set columns.kinds: "
        f"{{{label}: number}} if they count from 0, and no row has the first label.",
        field=label,
    )


def refuse_two_readings(task: Task, splits: Mapping[str, Rows]) -> None:
    """Refuses labels whose integers are indices in some splits or rows, and names in others.

    So it is if only one split's file stores the names of its integers, in another order than the
    task's labels, or if digits are texts of options in some rows. Targets that are written in
    another way in one split (3 and 3.0) are refused too. `splits` are the task's rows by their file
    or split.

    Raises:
        DataError: Names both.
    """
    if task.columns.choices is not None:
        _refuse_digits(task, splits)
        return
    label = task.columns.label
    if task.type.generates:
        _refuse_spellings(task, {_spelling(rows, label): at for at, rows in splits.items()})
    marks = {place: rows.table.schema.field(label).metadata for place, rows in splits.items()}
    indexed, named = (
        [place for place, mark in marks.items() if mark == wanted] for wanted in (INDEXED, NAMED)
    )
    if indexed and named:
        listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(task.labels))
        raise DataError(
            f"Task {task.name!r}: integers of {label!r} are indices of labels in {indexed[0]} "
            f"({listed}), and other labels' names in {named[0]}.",
            allowed="integers that mean the same in all splits",
            action="Write names of labels in both, or list the labels in the order of the names.",
            field=label,
        )


def _refuse_digits(task: Task, splits: Mapping[str, Rows]) -> None:
    """Refuses digits that can only be texts of options in some rows, and indices in others."""
    columns = task.columns
    if columns.keys or columns.label in columns.kinds:
        return
    only: dict[str, str] = {}  # text, index: a label that can be nothing else, and its place
    for place, rows in splits.items():
        for row in rows.iterate([*columns.options, columns.label, SOURCE_ROW]):
            value = row[columns.label]
            index = read_integer(value)
            texts = [] if index is None else find_value(value, _options(task, row))
            if index is None or index in texts:
                continue
            only.setdefault(
                "text" if texts else "index",
                f"{value!r} ({place}, row {row[SOURCE_ROW]}, from 0)",
            )
    if len(only) > 1:
        raise DataError(
            f"Task {task.name!r}: {columns.label!r} is ambiguous: {only['text']} is only the text "
            f"of an option, and {only['index']} only an index.",
            allowed="texts in all rows, or indices in all",
            action=f"Set columns.kinds: {{{columns.label}: text}} or {{{columns.label}: number}}.",
            field=columns.label,
        )


def _refuse_spellings(task: Task, places: Mapping[str, str]) -> None:
    """Refuses targets that no prediction could match; `places` are splits by how they spell."""
    label = task.columns.label
    for one, other in (("3", "3.0"), ("a list", "3"), ("a list", "3.0"), ("a list", "")):
        if {one, other} <= places.keys():
            raise DataError(
                f"Task {task.name!r}: a target of {label!r} is written as {one} in {places[one]}, "
                f"and as {other or 'a text'} in {places[other]}.",
                allowed="one way of writing in all splits",
                action="Write the files alike (pandas writes 3.0 for 3 where a column has a gap).",
                field=label,
            )


def _spelling(rows: Rows, name: str) -> str:
    """How all values are written: "a list", "3" or "3.0" (numbers); else empty."""
    if pa.types.is_list(rows.table.schema.field(name).type):
        return "a list"
    found = set()
    for row in rows.iterate([name]):
        value = row[name]
        text = str(value if isinstance(value, str) else spell_number(value))
        number = _NUMBER.fullmatch(text)
        if number is None:
            return ""
        if number[1] in (None, ".0"):
            found.add("3.0" if number[1] else "3")
    return found.pop() if len(found) == 1 else ""


def _options(task: Task, row: Row) -> list[str]:
    found = [row[name] for name in task.columns.options]
    return found if task.columns.choices != task.columns.options[0] else found[0]


def find_extra_kinds(task: Task, splits: Mapping[str, Rows]) -> dict[str, FieldKind]:
    """The types of a task's extra fields; those without any value are left out.

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
