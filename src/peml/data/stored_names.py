"""Names that a data set stores for the integers of a label column (``ClassLabel`` of `datasets`).

They come with Parquet files and hub data sets. An integer then means the stored name, even if the
task lists its labels in another order.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from peml.data.kinds import Parse
from peml.errors import DataError
from peml.tasks import Task
from peml.tasks.columns import Columns
from peml.tasks.matching import find_loosely

_KEY = b"huggingface"


def stored_names(schema: pa.Schema, columns: Columns, where: str) -> tuple[str, ...] | None:
    """The names stored for a task's label column, in the order of their integers, or None.

    Raises:
        DataError: The stored features can't be read.
    """
    metadata = schema.metadata or {}
    if _KEY not in metadata:
        return None
    try:
        features = json.loads(metadata[_KEY])["info"]["features"]
        for name in (columns.label, columns.aliases.get(columns.label)):
            feature = None if name is None else _find(features, name)
            if feature is not None:
                is_class = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
                return tuple(map(str, feature["names"])) if is_class else None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the features stored in the schema can't be read: "
            f"{type(error).__name__}: {error}.",
            allowed="features as the library datasets writes them",
            action="Write the file again.",
        ) from error
    return None


def _find(features: Mapping[str, Any], name: str) -> Any:
    """A feature by its name, with dots for objects; None if it doesn't exist."""
    if name in features:
        return features[name]
    first, dot, rest = name.partition(".")
    inner = features.get(first)
    return _find(inner, rest) if dot and isinstance(inner, dict) else None


def stored_name(value: int, names: tuple[str, ...], what: str) -> str:
    """The name of an integer. Raises a ValueError if it has none; `what` it stands for."""
    if 0 <= value < len(names):
        return names[value]
    raise ValueError(
        f"{value} is none of the {len(names)} {what} stored beside the column"
        + (": it marks rows without a label" if value == -1 else "")
    )


def naming(task: Task, names: tuple[str, ...], parse: Parse) -> Parse:
    """Extends `parse` to integers that mean an option of a row by their stored names.

    A stored name is one of the task's keys, if it has keys, or the field of an option. If the names
    are in ascending order (A, B, C or 0, 1, 2), the integer is the option's index.

    `parse` parses values that are not integers.
    """
    columns = task.columns
    order = _order(columns, names)

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return parse(value)
        name = stored_name(value, names, "options")
        if columns.keys is not None:
            return name
        if order is None:
            raise ValueError(
                f"{value} is stored as {name!r}, and the order of the stored names "
                f"({', '.join(names)}) is not the options'; name the options in columns.keys, or "
                f"say columns.kinds: {{{columns.label}: number}} where it is the index"
            )
        return order[value]

    return read


def _order(columns: Columns, names: tuple[str, ...]) -> list[int] | None:
    """The option that each name stands for, or None if that is unclear."""
    if isinstance(columns.choices, tuple):
        found = [find_loosely(name, columns.choices) for name in names]
        if None not in found:
            return [place for place in found if place is not None]
    by_length = sorted(names, key=lambda name: (len(name), name))
    return list(range(len(names))) if list(names) == by_length else None
