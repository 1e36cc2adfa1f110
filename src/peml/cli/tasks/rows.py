"""Shows rows of a task as a model sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from peml.data.sources import load_shots, load_source
from peml.errors import TaskError
from peml.tasks import Example, Task, TaskRenderer

_ROWS_SHOWN = 3


def print_rows(
    task: Task,
    source: str | None,
    row: int | None,
    split: Literal["train", "reported"] | None,
    console: Console,
    *,
    read: Callable[[Task, Example], str] | None = None,
) -> None:
    """Prints a row, or the first three; by default of train, or of reported without a train split.

    ``read`` gives the text that a model reads of an example; by default it is the rendered prompt.

    Raises:
        TaskError: There is no such row.
    """
    if task.source.hub is not None and source is None:
        console.print(f"Rows come from the hub ({task.source.hub}); --source FOLDER shows local.")
        return
    train, reported, origin = load_source(task, source)
    split = split or ("train" if len(train) else "reported")
    rows = train if split == "train" else reported
    shown = range(min(_ROWS_SHOWN, len(rows))) if row is None else [row]
    if row is not None and row >= len(rows):
        raise TaskError(
            f"task {task.name!r} has no {split} row {row}",
            allowed=f"0 to {len(rows) - 1}" if len(rows) else f"no row: its {split} split is empty",
            action="Give another --row, or another --split.",
        )
    renderer = TaskRenderer(load_shots(task, source))
    for number in shown:
        place = f"{split} row {number} ({origin})"
        example = renderer.render(rows[number], number)
        prompt = example.prompt if read is None else read(renderer.task, example)
        _print_example(task, example, prompt, place, console)


def _print_example(task: Task, example: Example, prompt: str, place: str, console: Console) -> None:
    lines = [prompt]
    if task.type.generates:
        lines.append(f"-> {example.label}")
    elif task.type.has_scale:
        lines.append(f"-> {example.label:g}")
    else:
        lines += [
            f"{'->' if index == example.label else '  '} {option}"
            for index, option in enumerate(example.options)
        ]
    console.print(Panel("\n".join(lines), title=Text(place)))
