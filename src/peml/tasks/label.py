"""Reading a row's label: an option index, a score, or a target text."""

from __future__ import annotations

import math
from typing import Any

from peml.tasks.classes import read_class, settle_class
from peml.tasks.columns import FieldKind
from peml.tasks.example import Example
from peml.tasks.kinds import TaskType
from peml.tasks.matching import (
    describe_mismatch,
    find_names,
    read_boolean,
    read_integer,
    spell_number,
)
from peml.tasks.task import Scale, Task


def read_label(
    task: Task, value: Any, options: tuple[str, ...], keys: tuple[str, ...] = ()
) -> int | float | str:
    """Returns the label of a row in the form :class:`~peml.tasks.Example` holds it.

    Accepted are, for classification, a label name, an index, or a bool when there are two
    labels; where a row brings its choices the text of one option or an index, one of the keys
    where there are keys, or a list of the texts of all right options, of which the first counts
    as the label; for regression a number within the scale; for generation a text or a number,
    which is spelled out. Names, texts and keys come before indices. Nothing is guessed: an integer
    that is the name of one label or option and the index of another is refused.

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
    if task.columns.choices is None:
        return settle_class(task, value, read_class(task, value))
    if keys:
        return _key(value, keys)
    return _choice(value, options, task.columns.kinds.get(task.columns.label))


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
        return str(spell_number(value))
    raise ValueError(f"{value!r} is not a target text or a number")


def _score(scale: Scale, value: Any) -> float:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not scale.low <= value <= scale.high:
        raise ValueError(f"{value!r} is not a score from {scale.low:g} to {scale.high:g}")
    return float(value)


def _key(value: Any, keys: tuple[str, ...]) -> int:
    found = _named(value, keys)
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{value!r} is not the key of one option; the keys are {', '.join(keys)}"
        f"{_near(value, keys)}"
    )


def _choice(value: Any, options: tuple[str, ...], kind: FieldKind | None) -> int:
    if isinstance(value, (list, tuple)):
        found = [find_names(text, options)[:1] for text in value if isinstance(text, str)]
        if value and len(found) == len(value) and all(found):
            return found[0][0]
        raise ValueError(f"{value!r} are not the texts of right options")
    by_text = [] if kind == "number" else _named(value, options)
    index = None if kind == "text" else _index(value, len(options))
    if isinstance(value, str) and by_text:
        index = None
    meant = {*by_text} if index is None else {*by_text, index}
    if len(meant) == 1:
        return meant.pop()
    if meant and index is not None:
        raise ValueError(
            f"{value!r} is ambiguous: it is the text of option {by_text[0]} and the index of "
            f"option {index} {options[index]!r}; say columns.kinds: text or number of the label"
        )
    raise ValueError(
        f"{value!r} is neither an index from 0 to {len(options) - 1} nor the text of one option"
        f"{_near(value, options)}"
    )


def _named(value: Any, names: tuple[str, ...]) -> list[int]:
    """The places of the names that a text, an integer or a boolean spells."""
    if not isinstance(value, (str, int)):
        return []
    found = [] if isinstance(value, bool) else find_names(str(value), names)
    said = value if isinstance(value, bool) else read_boolean(str(value))
    if found or said is None:
        return found
    return find_names(str(said), names) or find_names(str(said).lower(), names)


def _index(value: Any, count: int) -> int | None:
    number = read_integer(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        return None
    return number if 0 <= number < count else None


def _near(value: Any, names: tuple[str, ...]) -> str:
    near = describe_mismatch(value, names) if isinstance(value, str) else ""
    return f"; {near}" if near else ""
