"""Reads a row's label: an option index, a score, or a target text."""

import math
from typing import Any

from peml.tasks.classes import read_class, settle_class
from peml.tasks.example import Example
from peml.tasks.matching import (
    describe_mismatch,
    find_names,
    find_value,
    read_integer,
    spell_number,
)
from peml.tasks.task import Scale, Task


def read_label(
    task: Task, value: Any, options: tuple[str, ...], keys: tuple[str, ...] = ()
) -> int | float | str:
    """Returns a row's label as stored in :class:`~peml.tasks.Example`.

    Accepted values:

    * classification: a label name, an index, or a bool if there are two labels;
    * options in the row: the text or index of one option, one of the keys if there are keys, or a
      list of the texts of all correct options, of which the first is the label (more than one
      only if the task is scored on texts);
    * regression: a number within the scale;
    * generation: a text, or a number, which becomes a text.

    A text is compared with names first: a loaded row has the name of its class, even if
    `columns.kinds` says that its source has indices (see `read_class`). An integer that is the name
    of one label or option and the index of another is refused. `keys` are names of the choices in
    labels, if they have any.

    Raises:
        ValueError: The value is not accepted, or ambiguous.
    """
    if task.type.generates and task.columns.choices is None:
        return _target(value)
    if task.scale is not None:
        return _score(task.scale, value)
    if task.columns.choices is None:
        if isinstance(value, str) and value in task.labels:
            return task.labels.index(value)
        return settle_class(task, value, read_class(task, value))
    if keys:
        return _key(value, keys)
    return _choice(task, value, options)


def right_option(task: Task, example: Example) -> int:
    """Index of the correct option; for a regression, of the nearest score."""
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
    found = find_value(value, keys)
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{value!r} is not the key of one option; the keys are {', '.join(keys)}"
        f"{describe_mismatch(value, keys)}"
    )


def _choice(task: Task, value: Any, options: tuple[str, ...]) -> int:
    kind = task.columns.kinds.get(task.columns.label)
    if isinstance(value, (list, tuple)):
        found = [find_names(text, options)[:1] for text in value if isinstance(text, str)]
        if not value or len(found) != len(value) or not all(found):
            raise ValueError(f"{value!r} are not the texts of right options")
        if len({*map(tuple, found)}) > 1 and not task.answers_in_text:
            raise ValueError(
                f"{value!r} are several right options, of which {task.metrics[0]} knows one; set "
                "metrics of texts (span_em, span_f1), or leave one"
            )
        return found[0][0]
    by_text = [] if kind == "number" else find_value(value, options)
    number = None if kind == "text" else read_integer(value)
    index = number if number is not None and 0 <= number < len(options) else None
    if isinstance(value, str) and by_text:
        index = None
    meant = {*by_text} if index is None else {*by_text, index}
    if len(meant) == 1:
        return meant.pop()
    if meant and index is not None:
        raise ValueError(
            f"{value!r} is ambiguous: it is the text of option {by_text[0]} and the index of "
            f"option {index} {options[index]!r}; set columns.kinds of the label to text or number"
        )
    if len(by_text) > 1:
        raise ValueError(f"{value!r} is the text of more than one option: {by_text}")
    text = str(value).strip()
    hint = "; labels that are counted from 1 need columns.keys" if text == str(len(options)) else ""
    if len(text) == 1 and text.isalpha():
        hint = "; labels that are letters need columns.keys, such as [A, B, C]"
    raise ValueError(
        f"{value!r} is neither an index from 0 to {len(options) - 1} nor the text of one option"
        f"{describe_mismatch(value, options)}{hint}"
    )
