"""The commands' arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from peml.cli.options import TrustOption
from peml.cli.sparing import skip_pandas
from peml.errors import TaskError
from peml.terminal import open_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peml.models import Family
    from peml.tasks import Task

tasks_app = typer.Typer(help="List, show and check tasks and suites.", no_args_is_help=True)

Split = Literal["train", "reported"]
SourceOption = Annotated[
    str | None,
    typer.Option(help="Folder with one folder per task, read instead of the tasks' own sources."),
]

_RowOption = Annotated[
    int | None, typer.Option(min=0, help="Show this row, counted from 0; default: the first three.")
]
_SplitOption = Annotated[
    Split | None,
    typer.Option(help="Split of the rows; default: train, or reported if there is no train."),
]
_ReadByOption = Annotated[
    str | None, typer.Option(help="Show prompts as this model reads them, with its special tokens.")
]
_ChatOption = Annotated[
    bool, typer.Option("--chat", help="Ask through the model's chat template, as tasks.chat: true.")
]


@tasks_app.command("list")
def list_tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the bundled suites and their tasks."""
    from peml.cli.tasks.definitions import describe_suite, print_suite
    from peml.tasks import list_suites, load_suite

    suites = [load_suite(name) for name in list_suites()]
    if as_json:
        typer.echo(json.dumps([describe_suite(suite) for suite in suites], indent=2))
        return
    console = open_console()
    for suite in suites:
        print_suite(suite, console)


@tasks_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a task file, with a description of every key."""
    from peml.tasks.instructions import fill_in
    from peml.tasks.task import Task

    found = Task.model_json_schema()
    by_format = fill_in({"format": "alpaca"})  # a task with a format needs none of these
    found["required"] = [key for key in found["required"] if key not in by_format]
    typer.echo(json.dumps(found, indent=2))


@tasks_app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="A suite, a task, SUITE/TASK or a YAML file.")],
    suite: Annotated[
        str | None, typer.Option(help="Suite (name or YAML file) to look for the task in.")
    ] = None,
    source: SourceOption = None,
    row: _RowOption = None,
    split: _SplitOption = None,
    model: _ReadByOption = None,
    chat: _ChatOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show a suite's tasks, or one task in detail with rows as a model sees them.

    With --model, also count the tokens of prompts, with the task's template and with tasks.bare.

    Examples:
      peml tasks show glue --model smollm2 --source data
      peml tasks show glue
      peml tasks show demo/topics --row 12
      peml tasks show demo/topics --row 3 --split reported
      peml tasks show demo/topics --row 3 --model smollm2 --chat
    """
    skip_pandas()
    from peml.cli.tasks.definitions import find, print_suite, print_task
    from peml.cli.tasks.rows import print_rows
    from peml.data.settings import with_chat
    from peml.tasks import Suite

    console = open_console()
    found = find(name, suite)
    if isinstance(found, Suite):
        if row is not None or split is not None:
            raise TaskError(
                f"{name!r} is a suite, and --row and --split choose rows of a task",
                action=f"name the task: peml tasks show {name}/TASK --row N",
            )
        print_suite(found, console)
        if model is not None:
            from peml.cli.tasks.tokens import print_tokens

            tasks = with_chat(found.tasks, chat=True) if chat else found.tasks
            print_tokens(tasks, source, _family(model, tasks, trusted=trust_remote_code), console)
        return
    if chat and model is None:
        raise TaskError(
            "--chat shows a prompt as a model's chat template writes it, and no model is named",
            action="name one: --model smollm2 --chat",
        )
    found = with_chat((found,), chat=True)[0] if chat else found
    print_task(found, console)
    family = None if model is None else _family(model, (found,), trusted=trust_remote_code)
    print_rows(found, source, row, split, family, console)
    if family is not None and row is None and (source or found.source.hub is None):
        from peml.cli.tasks.tokens import has_prompts, print_tokens

        if has_prompts(family):
            print_tokens((found,), source, family, console)


def _family(model: str, tasks: Sequence[Task], *, trusted: bool) -> Family:
    """How a model reads the tasks; nothing is cut."""
    from peml.models import ModelSettings, check_task_types, load_family

    family = load_family(ModelSettings(name=model, max_length=8, trust_remote_code=trusted))
    family.max_length = 2**31
    check_task_types(family, tasks)
    return family


@tasks_app.command("check")
def check_file(
    file: Annotated[
        str, typer.Argument(help="Name of a suite, or YAML file of a task or a suite.")
    ],
    source: SourceOption = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Load rows from the hub that are not in a local folder.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Also count tokens, and rows that would be cut, for this model."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Maximum length of an input in tokens; default: the model's positions.", min=8
        ),
    ] = None,
    max_leakage: Annotated[
        float,
        typer.Option(
            help="Fraction of a task's reported rows that may also be train rows, of the same or "
            "of another task in the file.",
            min=0,
            max=1,
        ),
    ] = 0.01,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Report such rows, but allow any number.")
    ] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Check a task or suite and all of its rows: counts, labels, lengths, leakage.

    Rows of the hub are only loaded with --hub. The exit code is 2 if a task can't be used, and 1
    if more of a task's reported rows are train rows than --max-leakage allows.
    """
    from peml.cli.tasks.checking import check_tasks
    from peml.models import ModelSettings, load_family

    family = None
    if model is not None:
        trusted = trust_remote_code
        family = load_family(
            ModelSettings(name=model, max_length=max_length, trust_remote_code=trusted)
        )
    most = None if allow_leakage else max_leakage
    if not check_tasks(file, source, family, hub=hub, max_leakage=most, console=open_console()):
        raise typer.Exit(1)
