"""Tasks whose rows PEML generates (``source: {generated: NAME}``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from peml.errors import TaskError, nearest
from peml.tasks.demo import TASKS, generate_demo

GENERATORS: Mapping[str, Callable[[str], dict[str, list[dict[str, Any]]]]] = MappingProxyType(
    {"demo": generate_demo}
)
"""Generators by name: each takes a task's name and returns rows by split name."""

_TASKS: Mapping[str, Mapping[str, object]] = MappingProxyType({"demo": TASKS})


def generate(name: str, task: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the generated rows of a task, by split.

    Raises:
        TaskError: There is no such generator, or it has no such task.
    """
    if name not in GENERATORS:
        raise TaskError(
            f"Task {task!r}: there is no generator {name!r}.{nearest(name, GENERATORS)}",
            allowed=", ".join(sorted(GENERATORS)),
            action="Correct source.generated, or set source.hub or source.path.",
        )
    if task not in _TASKS[name]:
        raise TaskError(
            f"Generator {name!r} has no task {task!r}.{nearest(task, _TASKS[name])}",
            allowed=", ".join(_TASKS[name]),
            action="Use one of these as the task's name.",
        )
    return GENERATORS[name](task)
