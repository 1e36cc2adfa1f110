"""Counts the tokens of tasks' prompts, with their templates and bare."""

from collections.abc import Sequence

from rich.console import Console

from peml.data.folders import TaskMissingError
from peml.data.sources import load_shots, load_source
from peml.errors import TaskError
from peml.models import Family, TextFamily
from peml.tasks import Task, TaskRenderer, with_bare_template
from peml.terminal import Column, print_table

_MOST = 1000
_NUMBERS = ("rows", "tokens of a prompt", "bare", "saved")
_COLUMNS = (Column("task"), *(Column(name, right=True) for name in _NUMBERS))


def has_prompts(family: Family) -> bool:
    """Whether a model reads prompts, which encoders don't."""
    return isinstance(family, TextFamily)


def print_tokens(
    tasks: Sequence[Task], source: str | None, family: Family, console: Console
) -> None:
    """Prints the mean tokens of tasks' prompts, with their templates and bare (tasks.bare).

    The first thousand train rows of each task count, or reported rows if there are no train rows.
    A model without prompts is refused.
    """
    if not has_prompts(family):
        raise TaskError(
            f"the family {family.name!r} reads a task's segments, and has no prompts to count",
            allowed="text-to-text models",
            action="leave out --model, or count tokens with peml tasks check --model",
        )
    lines, means = [], []
    for task in tasks:
        if task.source.hub is not None and source is None:
            lines.append([task.name, "on the hub", "", "", ""])
            continue
        try:
            rows, full = _count(task, source, family)
        except TaskMissingError:
            lines.append([task.name, "not there", "", "", ""])
            continue
        try:
            _, bare = _count(with_bare_template(task), source, family)
        except TaskError:
            lines.append([task.name, f"{rows:,}", f"{full:.1f}", "can't be", ""])
            continue
        means.append((full, bare))
        lines.append([task.name, f"{rows:,}", *_spell(full, bare)])
    if len(means) > 1:
        both = (sum(values) / len(means) for values in zip(*means, strict=True))
        lines.append(["mean", "", *_spell(*both)])
    print_table(console, _COLUMNS, lines)


def _count(task: Task, source: str | None, family: Family) -> tuple[int, float]:
    """The number of rows, and the mean tokens of their prompts."""
    train, reported, _ = load_source(task, source)
    rows = train if len(train) else reported
    number = min(_MOST, len(rows))
    renderer = TaskRenderer(load_shots(task, source))
    count = 0
    for index, row in enumerate(rows.select(range(number))):
        example = renderer.render(row, index)
        count += len(family.encode(renderer.task, example, "generate")[0].input_ids)
    return number, count / number


def _spell(full: float, bare: float) -> list[str]:
    return [f"{full:.1f}", f"{bare:.1f}", f"{1 - bare / full:.0%}"]
