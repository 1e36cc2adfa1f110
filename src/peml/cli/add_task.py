"""`peml add-task`: a finished run's model answers one more task."""

from pathlib import Path
from typing import Annotated

import typer

from peml.cli.options import TrustOption
from peml.cli.sparing import quick_imports


def add_task_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")],
    task: Annotated[
        Path,
        typer.Argument(
            help="YAML file of the new task, or the run folder of context-tuning that trained "
            "contexts on the model's weights.",
        ),
    ],
    shots: Annotated[
        int | None,
        typer.Option(min=1, help="Solved rows of the task's train split to show; for a YAML file."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="Folder with the task's folder; default: its own source.")
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="How rows are chosen: balanced, first, or a file of rows (task, row); default: as "
            "in the run (method.context.choose), or balanced."
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Add a task to a finished run's model; its weights and other tasks stay as they are.

    The model has to be a decoder of merged weights, such as a LoRA's, with contexts (lora+context)
    or without. From a task's file, the new context is the keys and values of solved rows of its
    train split; no other split is read, and nothing is trained. From a run of context-tuning with
    model.name: RUN/model/backbone, the trained contexts of all its tasks are added.

    Example:
      peml add-task runs/llama tickets.yaml --shots 16
      peml add-task runs/llama runs/tickets
    """
    if task.is_dir():
        given = {"--shots": shots, "--source": source, "--choose": choose}
        _add_trained(run, task, [name for name, value in given.items() if value is not None])
        return
    with quick_imports():
        from peml.errors import ConfigError, renaming
        from peml.export import add_task
        from peml.tasks import load_task_file

    if shots is None:
        raise ConfigError(
            "--shots is missing: the number of solved rows that the new task's context shows",
            action="give it, such as --shots 16",
        )
    definition = load_task_file(task)
    folder = None if source is None else str(source)
    with renaming({f"method.context.{name}": f"--{name}" for name in ("shots", "choose")}):
        tokens = add_task(
            run, definition, shots, folder, choose=choose, trust_remote_code=trust_remote_code
        )
    said = f"added {definition.name}: a context of {shots} solved rows, {tokens} tokens"
    _report(run, said, definition.name)


def _add_trained(run: Path, trained: Path, given: list[str]) -> None:
    """Adds the tasks of a run; refuses the options `given`, which are for a task's file."""
    with quick_imports():
        from peml.errors import ConfigError
        from peml.export import add_trained_tasks

    if given:
        raise ConfigError(
            f"{', '.join(given)}: the contexts of {trained} are trained already",
            action="leave the option out, or name a task's YAML file",
        )
    for name in add_trained_tasks(run, trained):
        _report(run, f"added {name}: a trained context", name)


def _report(run: Path, said: str, task: str) -> None:
    typer.echo(said)
    typer.echo(f"answer its rows: peml predict {run} --task {task} --input ROWS --output OUT")
