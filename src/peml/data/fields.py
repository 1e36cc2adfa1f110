"""The fields of a row: nested ones by dotted names, renamed ones, and the kind each one holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from peml.tasks import Columns, Task, TaskType

__all__ = [
    "KINDS",
    "Kind",
    "flat_row",
    "kind_of",
    "label_kind",
    "named_kinds",
    "refuse_repeated",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field holds.

    Attributes:
        type: Its type in Arrow.
        accepts: Whether a value is of the kind.
        allowed: The kind in words.
    """

    type: pa.DataType
    accepts: Callable[[Any], bool]
    allowed: str


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "text": Kind(pa.string(), _is_text, "a text"),
        "texts": Kind(pa.list_(pa.string()), _is_texts, "a list of texts"),
        "whole": Kind(pa.int64(), _is_whole, "a whole number, as in the first row"),
        "number": Kind(pa.float64(), _is_number, "a number"),
        "boolean": Kind(pa.bool_(), _is_boolean, "true or false, as in the first row"),
    }
)
"""The kinds by name, each a field's for all rows of a file."""


def kind_of(value: Any) -> str | None:
    """The name of a value's kind; None where it has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    order = ("boolean", "whole", "number", "text", "texts")
    return next((name for name in order if KINDS[name].accepts(value)), None)


def named_kinds(columns: Columns) -> dict[str, str]:
    """The kinds that a task's definition fixes, by field; others are told by the first row."""
    kinds = dict.fromkeys(columns.inputs, "text")
    listed = isinstance(columns.choices, str)
    kinds |= dict.fromkeys(columns.options, "texts" if listed else "text")
    if isinstance(columns.keys, str):
        kinds[columns.keys] = "texts"
    return kinds


def label_kind(task: Task, value: Any) -> str | None:
    """The kind of a task's label column, from its first value; None where it can't be a label."""
    if task.type is TaskType.REGRESSION:
        return "number"
    kind = kind_of(value)
    if task.target is not None and kind is not None:
        return kind
    if task.type is TaskType.GENERATION:
        return "number" if kind == "whole" else kind if kind == "number" else "text"
    allowed = {"boolean", "whole", "text"}
    if task.type is TaskType.MULTIPLE_CHOICE:
        allowed.add("texts")
    return kind if kind in allowed else None


def flat_row(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """A row with nested objects spelled with dots (``idx.question``) and aliases resolved.

    Raises:
        ValueError: A name is there twice, in an object and spelled out.
    """
    fields = _flat(row, "")
    flat = dict(fields)
    if len(flat) < len(fields):
        refuse_repeated([name for name, _ in fields])
    return _renamed(flat, columns)


def refuse_repeated(names: Sequence[str]) -> None:
    """Refuses fields of one name.

    Raises:
        ValueError: Names the first that is there twice.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"the column {repeated[0]!r} is there twice"
            + (" (an object's field and a dotted name are one)" if "." in repeated[0] else "")
        )


def _flat(row: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, dict):
            fields += _flat(value, f"{prefix}{name}.")
        else:
            fields.append((f"{prefix}{name}", value))
    return fields


def _renamed(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    for name, alias in columns.aliases.items():
        if name not in row and alias in row:
            row[name] = row[alias]
    return row
