"""The fields of a row, with nested fields and aliases resolved."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from peml.errors import DataError
from peml.tasks import Task
from peml.tasks.columns import Columns
from peml.tasks.instructions import split_row


def flat_row(row: Mapping[str, Any], columns: Columns, where: str = "A row") -> dict[str, Any]:
    """A row with nested objects spelled with dots (``idx.question``) and aliases resolved.

    Raises:
        DataError: A nested field and a dotted name are the same, or objects are nested too deeply.
    """
    try:
        fields = _flat(row, "")
        flat = dict(fields)
        if len(flat) < len(fields):
            refuse_repeated([name for name, _ in fields])
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"{where}: {error}.",
            allowed="each column once in a row, and objects in objects some levels deep",
            action="Correct the row.",
        ) from error
    for name, alias in columns.aliases.items():
        if name not in flat and alias in flat:
            flat[name] = flat[alias]
    return flat


def plain_row(
    row: Mapping[str, Any], task: Task, where: str, *, labelled: bool = True
) -> dict[str, Any]:
    """Like `flat_row`, but splits a conversation if the task's rows have one (`Task.format`).

    Raises:
        DataError: See `flat_row`; or the conversation can't be used.
    """
    flat = flat_row(row, task.columns, where)
    for name, other in task.columns.aliases.items():
        if labelled or name != task.columns.label:
            refuse_rival(name, flat.get(name), other, flat.get(other), where)
    try:
        return split_row(task.format, flat, labelled=labelled, used=task.columns.needed)
    except ValueError as error:
        raise DataError(
            f"{where}: {error}.",
            allowed="turns with a text each: the system's first if at all, then the user's and the "
            "assistant's, whose answer is last",
            action="Correct the row, or leave it out.",
        ) from error


def refuse_rival(name: str, value: Any, other: str, instead: Any, where: str) -> None:
    """Refuses a row in which a field and its other name (`Columns.aliases`) are two things.

    An empty other field is none: instruction data has fields that its copies leave empty.

    Raises:
        DataError: The values differ.
    """
    if instead in (None, "") or instead == value:
        return
    raise DataError(
        f"{where}, field {name!r}: it is {value!r}, and {other!r}, its other name in "
        f"columns.aliases, is {instead!r}.",
        allowed="one of the two, or the same in both",
        action=f"To read {other!r}, use a name that no column has (columns.aliases: {{NAME: "
        f"{other}}}); to read {name!r}, remove the alias.",
        field=name,
    )


def refuse_repeated(names: Sequence[str]) -> None:
    """Raises a ValueError if a name occurs twice."""
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
