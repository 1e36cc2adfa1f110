"""Reading a row's label: an option index, a score, or a target text."""

from __future__ import annotations

import math
from typing import Any

from peml.tasks.task import Scale, Task, TaskType

__all__ = ["read_label"]


def read_label(task: Task, value: Any, options: tuple[str, ...]) -> int | float | str:
    """Returns the label of a row in the form :class:`~peml.tasks.Example` holds it.

    Accepted are, for classification, an index, a label name, or a bool when there are two
    labels; for multiple choice an index or the text of one option; for regression a number within
    the scale; for generation a text. Nothing is guessed: "A" or "1" name an option only if they
    are its text.

    Args:
        task: The task the row belongs to.
        value: What the row's label column holds.
        options: The row's choices (multiple choice); not read for other types.

    Raises:
        ValueError: The value is none of these. The message shows it and says what is allowed.
    """
    if task.type is TaskType.GENERATION:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a target text")
        return value
    if task.scale is not None:
        return _score(task.scale, value)
    if task.type is TaskType.MULTIPLE_CHOICE:
        return _choice(value, options)
    return _class(task.labels, value)


def _score(scale: Scale, value: Any) -> float:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not scale.low <= value <= scale.high:
        raise ValueError(f"{value!r} is not a score from {scale.low:g} to {scale.high:g}")
    return float(value)


def _choice(value: Any, options: tuple[str, ...]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    if isinstance(value, str) and options.count(value) == 1:
        return options.index(value)
    raise ValueError(
        f"{value!r} is neither an index from 0 to {len(options) - 1} nor the text of one option"
    )


def _class(labels: tuple[str, ...], value: Any) -> int:
    if isinstance(value, bool):
        if len(labels) == 2:
            return int(value)
    elif isinstance(value, int):
        if 0 <= value < len(labels):
            return value
    elif isinstance(value, str) and value in labels:
        return labels.index(value)
    listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(labels))
    raise ValueError(f"{value!r} is not a label; the labels are {listed}")
