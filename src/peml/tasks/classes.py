"""Reads a class label, which is the label's name or its index."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from peml.tasks.matching import (
    describe_mismatch,
    find_loosely,
    find_value,
    read_boolean,
    read_integer,
)
from peml.tasks.task import Task

_WORDS: Mapping[bool, tuple[str, ...]] = MappingProxyType(
    {True: ("true", "yes", "positive", "1"), False: ("false", "no", "negative", "0")}
)
"""Names of labels that mean true or false."""


class ClassReading(NamedTuple):
    """The labels that a value may mean: as a name and as an index, each by its index or None."""

    by_name: int | None
    by_index: int | None


def read_class(task: Task, value: Any, *, typed: bool = True) -> ClassReading:
    """The labels of a classification that a value may mean.

    A text that is a label's name means that label. An integer may be a name or an index. True and
    False are names if the task has such labels (``true``, ``yes``, ``positive``, ``1``). They are
    indices of two labels only if `columns.kinds` says number.
    ``typed`` sources distinguish texts from numbers; CSV doesn't.

    Raises:
        ValueError: It is not a label of the task.
    """
    kind = task.columns.kinds.get(task.columns.label)
    number = read_integer(value)
    truth = read_boolean(value)
    if truth is not None and kind == "number" and len(task.labels) == 2:
        number = int(truth)
    if number is None:
        reading = ClassReading(None if kind == "number" else _named(task, value), None)
    else:
        by_name = None if kind == "number" else next(iter(find_value(value, task.labels)), None)
        by_index = number if kind != "text" and 0 <= number < len(task.labels) else None
        if isinstance(value, str) and typed and by_name is not None:
            by_index = None
        reading = ClassReading(by_name, by_index)
    if reading.by_name is None and reading.by_index is None:
        raise ValueError(_refusal(task, value))
    return reading


def is_reversed(labels: Sequence[str]) -> bool:
    """Whether two labels mean true and false, in this order, so that 1 may mean the first."""
    return len(labels) == 2 and all(
        find_loosely(label, _WORDS[truth]) is not None
        for label, truth in zip(labels, (True, False), strict=True)
    )


def ends_negative(labels: Sequence[str]) -> bool:
    """Whether the second of two labels says that the first is not so, as in [spam, not spam]."""
    if len(labels) != 2:
        return False
    first, second = (label.casefold().replace("-", " ").replace("_", " ") for label in labels)
    negated = {f"{no}{first}" for no in ("not ", "non ", "no ", "non", "un", "in", "im", "ir")}
    return second in negated or is_reversed(labels)


def settle_class(task: Task, value: Any, reading: ClassReading) -> int:
    """The index of the label that a value means.

    Raises:
        ValueError: It is the name of one label and the index of another.
    """
    meant = {index for index in reading if index is not None}
    if len(meant) > 1:
        raise ValueError(explain_ambiguity(task, value, reading))
    return meant.pop()


def explain_ambiguity(task: Task, value: Any, reading: ClassReading) -> str:
    """Message for a value with two meanings, and how to tell which one is meant."""
    field = task.columns.label
    return (
        f"{value} is ambiguous: it is the name of label {reading.by_name} and the index of "
        f"label {reading.by_index} {task.labels[reading.by_index or 0]!r}; set "
        f"columns.kinds: {{{field}: text}} for names, {{{field}: number}} for indices"
    )


def _named(task: Task, value: Any) -> int | None:
    """Index of the label that a text or a boolean names."""
    if not isinstance(value, (str, bool)):
        return None
    if found := find_value(value, task.labels):
        return found[0]  # no two labels are equal
    boolean = read_boolean(value)
    if boolean is None or task.columns.kinds.get(task.columns.label) == "text":
        return None
    if is_reversed(task.labels):
        return int(not boolean)
    return int(boolean) if is_reversed(task.labels[::-1]) else None


def _refusal(task: Task, value: Any) -> str:
    listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(task.labels))
    advice = describe_mismatch(value, task.labels)
    if len(task.labels) == 2 and read_boolean(value) is not None:
        advice = (
            f"; if false is 0 and true is 1, set columns.kinds: {{{task.columns.label}: number}}"
        )
    return f"{value!r} is not a label; the labels are {listed}{advice}"
