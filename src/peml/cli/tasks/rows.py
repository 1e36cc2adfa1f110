"""Shows rows of a task as a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from peml.data.sources import load_shots, load_source
from peml.errors import TaskError
from peml.tasks import Example, Task, TaskRenderer

if TYPE_CHECKING:
    from peml.models import Family

_ROWS_SHOWN = 3


def print_rows(
    task: Task,
    source: str | None,
    row: int | None,
    split: Literal["train", "reported"] | None,
    family: Family | None,
    console: Console,
) -> None:
    """Prints a row, or the first three; by default of train, or of reported without a train split.

    With a family, prompts are shown as its model reads them, special tokens included.
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
        prompt = example.prompt
        if family is not None:
            sequence, *_ = family.encode(renderer.task, example, "generate")
            prompt = family.spelling.decode(sequence.input_ids) + sequence.gap
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
