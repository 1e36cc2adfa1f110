"""The rows that come with the package (``source: {generated: demo}``), the same on every machine.

`tests/tasks/demo` generates them; a test checks that they are up to date.
"""

import json
from importlib import resources
from typing import Any

from peml.errors import TaskError, nearest

_NAME = "demo"


def generate(name: str, task: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of a task, by split.

    Raises:
        TaskError: No rows of that name come with the package, or not for this task.
    """
    if name != _NAME:
        raise TaskError(
            f"Task {task!r}: there is no generator {name!r}.{nearest(name, [_NAME])}",
            allowed=_NAME,
            action="Correct source.generated, or set source.hub or source.path.",
        )
    folder = resources.files("peml.tasks") / _NAME
    tasks = sorted(place.name for place in folder.iterdir() if place.is_dir())
    if task not in tasks:
        raise TaskError(
            f"Generator {name!r} has no task {task!r}.{nearest(task, tasks)}",
            allowed=", ".join(tasks),
            action="Use one of these as the task's name.",
        )
    return {
        split: list(map(json.loads, (folder / task / f"{split}.jsonl").read_bytes().splitlines()))
        for split in ("validation", "train")
    }
