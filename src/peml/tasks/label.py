"""Reading a row's label: an option index, a score, or a target text."""

from __future__ import annotations

import math
from typing import Any

from peml.tasks.example import Example
from peml.tasks.kinds import TaskType
from peml.tasks.task import Scale, Task

__all__ = ["read_label", "right_option"]


def read_label(
    task: Task, value: Any, options: tuple[str, ...], keys: tuple[str, ...] = ()
) -> int | float | str:
    """Returns the label of a row in the form :class:`~peml.tasks.Example` holds it.

    Accepted are, for classification, an index, a label name, or a bool when there are two
    labels; where a row brings its choices an index or the text of one option, one of the keys
    where there are keys, or a list of the texts of all right options, of which the first counts
    as the label; for regression a number within the scale; for generation a text or a number,
    which is spelled out. Nothing is guessed: "A" or "1" name an option only if they are its text
    or its key.

    Args:
        task: The task the row belongs to.
        value: What the row's label column holds.
        options: The row's choices; not read where the task has none.
        keys: What labels call these choices, in their order; empty where they have no such names.

    Raises:
        ValueError: The value is none of these. The message shows it and says what is allowed.
    """
    if task.type is TaskType.GENERATION and task.columns.choices is None:
        return _target(value)
    if task.scale is not None:
        return _score(task.scale, value)
    if task.columns.choices is not None:
        return _key(value, keys) if keys else _choice(value, options)
    return _class(task.labels, value)


def right_option(task: Task, example: Example) -> int:
    """Index of the option that is the answer; a regression's nearest spelled score."""
    if task.scale is None:
        return int(example.label)
    steps = round((float(example.label) - task.scale.low) / task.scale.step)
    return min(max(steps, 0), len(example.options) - 1)


def _target(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    raise ValueError(f"{value!r} is not a target text or a number")


def _score(scale: Scale, value: Any) -> float:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not scale.low <= value <= scale.high:
        raise ValueError(f"{value!r} is not a score from {scale.low:g} to {scale.high:g}")
    return float(value)


def _key(value: Any, keys: tuple[str, ...]) -> int:
    if isinstance(value, str) and keys.count(value) == 1:
        return keys.index(value)
    raise ValueError(f"{value!r} is not the key of one option; the keys are {', '.join(keys)}")


def _choice(value: Any, options: tuple[str, ...]) -> int:
    if isinstance(value, (list, tuple)):
        if value and all(text in options for text in value):
            return options.index(value[0])
        raise ValueError(f"{value!r} are not the texts of right options")
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
