"""Prints suites and tasks from their definitions; no row is read."""

from typing import Any

from rich.console import Console
from rich.table import Table

from peml.errors import TaskError, nearest
from peml.tasks import Suite, Task, list_suites, load_definition, load_suite
from peml.terminal import Column, print_table


def find(name: str, suite: str | None) -> Suite | Task:
    """A suite or a task by name or file, or a task of ``suite``, of SUITE/TASK, or of any suite."""
    if suite is not None:
        return load_suite(suite).task(name)
    if name in list_suites() or name.endswith((".yaml", ".yml")):
        return load_definition(name)
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


def describe_suite(suite: Suite) -> dict[str, Any]:
    """A suite and its tasks, for JSON."""
    fields = {"name", "group", "type", "metrics", "description"}
    tasks = [task.model_dump(mode="json", include=fields) for task in suite.tasks]
    about = suite.model_dump(mode="json", include={"name", "version", "description"})
    return {**about, "tasks": tasks}


def print_suite(suite: Suite, console: Console) -> None:
    """Prints a suite's tasks, a line per task."""
    grouped = any(task.group for task in suite.tasks)
    columns = [
        Column("task"),
        *([Column("group", drop=2)] if grouped else []),
        Column("type", drop=1),
        Column("metrics", drop=3),
        Column("description", fold=True),
    ]
    rows = []
    for task in suite.tasks:
        group = [task.group or ""] if grouped else []
        rows.append([task.name, *group, task.type, ", ".join(task.metrics), task.description])
    said = f"{suite.name} (version {suite.version}): {suite.description}"
    console.print(said, style="italic")
    print_table(console, columns, rows)


def print_task(task: Task, console: Console) -> None:
    """Prints everything a task's definition says."""
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
        "columns.inputs": ", ".join(task.columns.inputs),
        "columns.choices": ", ".join(task.columns.options),
        "columns.label": task.columns.label,
        "labels": ", ".join(
            f"{index} {name} ({word!r})"
            for index, (name, word) in enumerate(
                zip(task.labels, task.verbalised_labels, strict=True)
            )
        ),
        "scale": ", ".join(task.scale.spell()) if task.scale is not None else "",
        "metrics": ", ".join(task.metrics),
        "shots": _describe_shots(task),
        "chat": "" if task.chat is None else task.chat.system or "by the model's template",
        "header": task.header,
        "template": task.template,
        "target": task.target,
        "segments": "\n".join(task.segments or ()),
        "stop": ", ".join(map(repr, task.stop)),
        "max_new_tokens": f"{task.max_new_tokens} tokens" if task.max_new_tokens else "",
    }
    for key, value in lines.items():
        if value:
            table.add_row(key, value)
    console.print(table)


def _describe_shots(task: Task) -> str:
    if task.shots.examples:
        return f"{len(task.shots.examples)}, written out"
    split = task.shots.split or task.splits.train
    return f"{task.shots.count} of {split}" if task.shots.count else ""
