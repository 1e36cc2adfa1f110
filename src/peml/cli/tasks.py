"""``peml tasks``: list the suites, show one task with rendered rows, check your own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from peml.cli.options import TrustOption
from peml.data.inspection import TaskInspection, inspect_task
from peml.data.leakage import Leak, find_leakage
from peml.data.sources import TaskData, load_shots, load_source
from peml.errors import PemlError, TaskError, nearest
from peml.models import Family, ModelSettings, load_family
from peml.run import print_warnings
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
_TOKEN_HEADINGS = ("tokens: median / 95 % / longest", "cut")

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
    train, reported, origin = load_source(found, source)
    found = load_shots(found, source)
    renderer = TaskRenderer(found)
    split = "train" if len(train) else "reported"
    for index, row in enumerate(islice(train if len(train) else reported, _ROWS_SHOWN)):
        place = f"{split} row {index} ({origin})"
        _print_example(console, found, renderer.render(row, index), place)


@tasks_app.command("check")
def check_file(
    file: Annotated[
        str, typer.Argument(help="Name of a suite, or YAML file of a task or a suite.")
    ],
    source: SourceOption = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Load from the hub what no folder has.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Also count tokens, and rows that would be cut, for this model."),
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="Longest input of the model in tokens.", min=8)
    ] = 128,
    max_leakage: Annotated[
        float,
        typer.Option(
            help="Share of a task's reported rows that may be train rows, of itself or of another "
            "task of the file.",
            min=0,
            max=1,
        ),
    ] = 0.01,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Count such rows, however many there are.")
    ] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Validate a task or suite, and every row it leads to: counts, labels, lengths, leakage.

    Rows of the hub are loaded with --hub only. The exit code is 2 when a task can't be used, and 1
    when more of a task's reported rows are train rows than --max-leakage.
    """
    console = Console()
    tasks = _read_tasks(file)
    family = (
        None
        if model is None
        else load_family(
            ModelSettings(name=model, max_length=max_length, trust_remote_code=trust_remote_code)
        )
    )
    checked, problems = _inspect(tasks, source, family, hub=hub, console=console)
    leakage = find_leakage(checked, texts=True)
    for leak in (*leakage.leaks, *leakage.texts):
        console.print(f"{'Leakage' if leak.whole else 'Note'}: {leak}.", highlight=False)
    _raise_problems(file, problems, len(tasks))
    if not allow_leakage:
        _refuse_leakage(leakage.leaks, max_leakage, console)


def _inspect(
    tasks: Sequence[Task], source: str | None, family: Family | None, *, hub: bool, console: Console
) -> tuple[list[TaskData], list[PemlError]]:
    """Shows what each task's rows are like; the rows of those that can be used, and the errors."""
    headings = ("task", "train", "reported", "labels")
    table = Table(*headings, *(_TOKEN_HEADINGS if family else ()), "state")
    problems: list[PemlError] = []
    checked: list[TaskData] = []
    notes: list[str] = []
    for task in tasks:
        cells = ["-"] * (len(table.columns) - 2) + ["definition is valid; hub rows not loaded"]
        if hub or source is not None or task.source.hub is None:
            try:
                fits = family is not None and task.type in family.task_types
                found = inspect_task(task, source, or_hub=hub, family=family if fits else None)
                cells = [*_describe(found, with_tokens=family is not None), "good"]
                checked.append(found.data)
                notes.extend(found.notes)
            except PemlError as error:
                problems.append(error)
                cells[-1] = f"problem {len(problems)} below"
        table.add_row(task.name, *map(escape, cells))
    console.print(table)
    for note in notes:
        console.print(f"Note: {note}.", highlight=False, markup=False, soft_wrap=True)
    return checked, problems


def _refuse_leakage(leaks: Sequence[Leak], most: float, console: Console) -> None:
    """Ends the command with 1 where too many of a task's reported rows are train rows."""
    leaking = {leak.evaluation_task: leak for leak in leaks if leak.share > most}
    texts = [
        f"{leak.anywhere} of {leak.evaluation_rows} reported rows of {name} ({leak.share:.1%}) are "
        f"train rows, more than --max-leakage {most:g}: its score would be too high."
        for name, leak in leaking.items()
    ]
    print_warnings(texts, console)
    if leaking:
        console.print(
            "Correct the files. Or leave such rows out of training (tasks.leakage: drop in the "
            "run's config), and pass --allow-leakage here.",
            highlight=False,
        )
        raise typer.Exit(1)


def _read_tasks(file: str) -> tuple[Task, ...]:
    if Path(file).suffix not in (".yaml", ".yml") or "tasks" in read_yaml(Path(file)):
        return load_suite(file).tasks
    return (load_task_file(file),)


def _raise_problems(file: str, problems: list[PemlError], tasks: int) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "\n".join(f"  {number}. {p}" for number, p in enumerate(problems, start=1))
        raise TaskError(f"{file}: {len(problems)} of {tasks} tasks have problems.\n{listed}")


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
        "shots": _describe_shots(task),
        "header": task.header,
        "template": task.template,
        "target": task.target,
        "segments": "\n".join(task.segments or ()),
        "stop": ", ".join(map(repr, task.stop)),
        "longest text": f"{task.max_new_tokens} tokens" if task.max_new_tokens else "",
    }
    for key, value in lines.items():
        if value:
            table.add_row(key, escape(value))
    console.print(table)


def _describe_shots(task: Task) -> str:
    if task.shots.examples:
        return f"{len(task.shots.examples)}, written out"
    split = task.shots.split or task.splits.train
    return f"{task.shots.count} of {split}" if task.shots.count else ""


def _print_example(console: Console, task: Task, example: Example, place: str) -> None:
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
    console.print(Panel(escape("\n".join(lines)), title=escape(place)))


def _describe(found: TaskInspection, *, with_tokens: bool) -> list[str]:
    data, tokens = found.data, found.tokens
    cells = [str(len(data.train)), str(len(data.reported)), _distribution(data.task, found.labels)]
    if not with_tokens:
        return cells
    if tokens is None:
        return [*cells, "not for this model", "-"]
    return [*cells, f"{tokens.median} / {tokens.high} / {tokens.longest}", str(tokens.cut)]


def _distribution(task: Task, labels: Sequence[int | float | str]) -> str:
    if task.type is TaskType.GENERATION:
        mean = sum(len(str(label)) for label in labels) / len(labels)
        return f"targets of {mean:.0f} characters on average"
    if task.type is TaskType.REGRESSION:
        scores = [float(label) for label in labels]
        mean = sum(scores) / len(scores)
        return f"{min(scores):g} to {max(scores):g}, mean {mean:.2f}"
    counts = Counter(labels)
    names = task.labels or tuple(str(index) for index in range(int(max(counts)) + 1))
    return ", ".join(f"{name}: {counts[index]}" for index, name in enumerate(names))
