"""Reading a class label: by the label's name, or by its index."""

from __future__ import annotations

from typing import Any, NamedTuple

from peml.tasks.matching import describe_mismatch, find_names, read_boolean, read_integer
from peml.tasks.task import Task


class ClassReading(NamedTuple):
    """Which label a value may mean.

    Attributes:
        by_name: The label that it names, if it does.
        by_index: The label whose index it is, if it is one.
    """

    by_name: int | None
    by_index: int | None


def read_class(task: Task, value: Any, *, typed: bool = True) -> ClassReading:
    """Which label of a task a value may mean.

    A text that is a label's name is that label; an integer may be a name or an index. True and
    False are the names, or else the second and the first of two labels.

    Args:
        task: A classification.
        value: What the label column holds.
        typed: Whether the source tells texts from numbers; CSV doesn't.

    Raises:
        ValueError: It is no label of the task. The message shows it and says what is allowed.
    """
    kind = task.columns.kinds.get(task.columns.label)
    number = _integer(value)
    if number is None:
        place = None if kind == "number" else _named(task, value)
        reading = ClassReading(place, None)
    else:
        is_text = isinstance(value, str)
        named = None if kind == "number" else _place_of(str(value), task.labels)
        index = number if kind != "text" and 0 <= number < len(task.labels) else None
        if is_text and typed and named is not None:
            index = None
        reading = ClassReading(named, index)
    if reading.by_name is None and reading.by_index is None:
        raise ValueError(_refusal(task, value))
    return reading


def settle_class(task: Task, value: Any, reading: ClassReading) -> int:
    """The index of the label that a single value means.

    Raises:
        ValueError: It is the name of one label and the index of another.
    """
    meant = {place for place in (reading.by_name, reading.by_index) if place is not None}
    if len(meant) > 1:
        raise ValueError(explain_ambiguity(task, value, reading))
    return meant.pop()


def explain_ambiguity(task: Task, value: Any, reading: ClassReading) -> str:
    """Why a value with two readings is refused, and how to say which is meant."""
    field = task.columns.label
    return (
        f"{_shown(value)} is ambiguous: it is the name of label {reading.by_name} and the index of "
        f"label {reading.by_index} {task.labels[reading.by_index or 0]!r}; say "
        f"columns.kinds: {{{field}: text}} for names, {{{field}: number}} for indices"
    )


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        return read_integer(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _named(task: Task, value: Any) -> int | None:
    """The label that a text or a boolean names."""
    if not isinstance(value, (str, bool)):
        return None
    if isinstance(value, str) and (place := _place_of(value, task.labels)) is not None:
        return place
    said = value if isinstance(value, bool) else read_boolean(value)
    if said is None:
        return None
    for text in (str(said), str(said).lower()):
        if (place := _place_of(text, task.labels)) is not None:
            return place
    by_order = len(task.labels) == 2 and task.columns.kinds.get(task.columns.label) != "text"
    return int(said) if by_order else None


def _place_of(text: str, labels: tuple[str, ...]) -> int | None:
    found = find_names(text, labels)  # no two labels are equal
    return found[0] if found else None


def _refusal(task: Task, value: Any) -> str:
    listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(task.labels))
    near = describe_mismatch(value, task.labels) if isinstance(value, str) else ""
    return f"{value!r} is not a label; the labels are {listed}{f'; {near}' if near else ''}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
