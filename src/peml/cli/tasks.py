"""``peml tasks``: list the suites, show one task with rendered rows, check your own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from peml.data.sources import check_rows, load_source
from peml.errors import PemlError, TaskError, nearest
from peml.tasks import (
    Example,
    Suite,
    Task,
    TaskRenderer,
    TaskType,
    list_suites,
    load_suite,
    load_task_file,
)
from peml.tasks.yaml_file import read_yaml

__all__ = ["tasks_app"]

_ROWS_SHOWN = 3

tasks_app = typer.Typer(help="List, show and check tasks and suites.", no_args_is_help=True)

SourceOption = Annotated[
    str | None,
    typer.Option(help="Folder with one folder a task, read instead of the tasks' own sources."),
]


@tasks_app.command("list")
def list_tasks() -> None:
    """List the suites that come along, and their tasks."""
    console = Console()
    for name in list_suites():
        _print_suite(console, load_suite(name))


@tasks_app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="A suite, a task, or SUITE/TASK.")],
    suite: Annotated[
        str | None, typer.Option(help="Suite (name or YAML file) to look for the task in.")
    ] = None,
    source: SourceOption = None,
) -> None:
    """Show a suite's tasks, or one task in detail with rows as a model sees them."""
    console = Console()
    found = _find(name, suite)
    if isinstance(found, Suite):
        _print_suite(console, found)
        return
    _print_task(console, found)
    if found.source.hub is not None and source is None:
        console.print(f"Rows come from the hub ({found.source.hub}); --source FOLDER shows local.")
        return
    train, _, origin = load_source(found, source)
    renderer = TaskRenderer(found)
    for index, row in enumerate(islice(train, _ROWS_SHOWN)):
        _print_example(console, found, renderer.render(row, index), origin)


@tasks_app.command("check")
def check_file(
    file: Annotated[Path, typer.Argument(help="YAML file of a task or a suite.")],
    source: SourceOption = None,
) -> None:
    """Validate a task or suite file, and every row it leads to (hub sources are not loaded)."""
    console = Console()
    is_suite = "tasks" in read_yaml(file)
    tasks = load_suite(file).tasks if is_suite else (load_task_file(file),)
    table = Table("task", "train", "reported", "labels", "state")
    problems: list[PemlError] = []
    for task in tasks:
        cells = ["-", "-", "-", "definition is valid; hub rows not loaded"]
        if source is not None or task.source.hub is None:
            try:
                cells = _check_rows(task, source)
            except PemlError as error:
                problems.append(error)
                cells[-1] = f"problem {len(problems)} below"
        table.add_row(task.name, *map(escape, cells))
    console.print(table)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "\n".join(f"  {number}. {p}" for number, p in enumerate(problems, start=1))
        raise TaskError(f"{file}: {len(problems)} of {len(tasks)} tasks have problems.\n{listed}")


def _find(name: str, suite: str | None) -> Suite | Task:
    """A suite by its name or file, or a task of ``suite``, of SUITE/TASK, or of any suite."""
    if suite is not None:
        return load_suite(suite).task(name)
    if name in list_suites() or name.endswith((".yaml", ".yml")):
        return load_suite(name)
    owner, slash, task_name = name.rpartition("/")
    if slash:
        return load_suite(owner).task(task_name)
    suites = [load_suite(each) for each in list_suites()]
    owners = [each for each in suites if name in {task.name for task in each.tasks}]
    if len(owners) == 1:
        return owners[0].task(name)
    names = [*list_suites(), *(task.name for each in suites for task in each.tasks)]
    raise TaskError(
        f"{name!r} is in the suites {', '.join(each.name for each in owners)}."
        if owners
        else f"There is no suite or task {name!r}.{nearest(name, names)}",
        allowed="a suite, a task, or SUITE/TASK; `peml tasks list` prints them",
        action="Name one of these, or give --suite FILE for your own.",
    )


def _print_suite(console: Console, suite: Suite) -> None:
    grouped = any(task.group for task in suite.tasks)
    headings = ("task", *(["group"] if grouped else []), "type", "metrics", "description")
    table = Table(*headings, title_justify="left")
    table.title = f"{suite.name} (version {suite.version}): {suite.description}"
    for task in suite.tasks:
        group = [task.group or ""] if grouped else []
        description = escape(task.description)
        table.add_row(task.name, *group, task.type, ", ".join(task.metrics), description)
    console.print(table)


def _print_task(console: Console, task: Task) -> None:
    origin = task.source.path or f"generated: {task.source.generated}"
    if task.source.hub is not None:
        origin = "/".join(part for part in (task.source.hub, task.source.subset) if part)
    table = Table(show_header=False, title=f"{task.name} (version {task.version})")
    lines = {
        "description": task.description,
        "group": task.group,
        "type": task.type.value,
        "source": origin,
        "splits": f"train: {task.splits.train or 'none'}; "
        f"reported: {' or '.join(task.splits.reported)}",
        "inputs": ", ".join(task.columns.inputs),
        "choices": ", ".join(task.columns.options),
        "label column": task.columns.label,
        "labels": ", ".join(
            f"{index} {name} ({word!r})"
            for index, (name, word) in enumerate(
                zip(task.labels, task.verbalised_labels, strict=True)
            )
        ),
        "scores": ", ".join(task.scale.spell()) if task.scale is not None else "",
        "metrics": ", ".join(task.metrics),
        "template": task.template,
        "segments": "\n".join(task.segments or ()),
    }
    for key, value in lines.items():
        if value:
            table.add_row(key, escape(value))
    console.print(table)


def _print_example(console: Console, task: Task, example: Example, origin: str) -> None:
    lines = [example.prompt]
    if task.type is TaskType.GENERATION:
        lines.append(f"-> {example.label}")
    elif task.type is TaskType.REGRESSION:
        lines.append(f"-> {example.label:g}")
    else:
        lines += [
            f"{'->' if index == example.label else '  '} {option}"
            for index, option in enumerate(example.options)
        ]
    console.print(
        Panel(escape("\n".join(lines)), title=f"train row {example.index} ({escape(origin)})")
    )


def _check_rows(task: Task, source: str | None) -> list[str]:
    train, reported, origin = load_source(task, source)
    labels = check_rows(task, train, f"{origin}, train")
    check_rows(task, reported, f"{origin}, {' or '.join(task.splits.reported)}")
    return [str(len(train)), str(len(reported)), _distribution(task, labels, train), "good"]


def _distribution(task: Task, labels: Sequence[int | float | str], train: Dataset) -> str:
    if task.type is TaskType.GENERATION:
        mean = sum(len(str(label)) for label in labels) / len(train)
        return f"targets of {mean:.0f} characters on average"
    if task.type is TaskType.REGRESSION:
        scores = [float(label) for label in labels]
        mean = sum(scores) / len(scores)
        return f"{min(scores):g} to {max(scores):g}, mean {mean:.2f}"
    counts = Counter(labels)
    names = task.labels or tuple(str(index) for index in range(int(max(counts)) + 1))
    return ", ".join(f"{name}: {counts[index]}" for index, name in enumerate(names))
