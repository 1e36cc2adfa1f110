"""Examples of a task's splits, as a run loads them."""

from __future__ import annotations

from peml.data.sources import load_source
from peml.tasks import Example, Task, TaskRenderer


def loaded_examples(task: Task, folder: str | None) -> list[list[Example]]:
    renderer = TaskRenderer(task)
    return [
        [renderer.render(row, number) for number, row in enumerate(split)]
        for split in load_source(task, folder)[:2]
    ]
