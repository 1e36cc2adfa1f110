"""`peml add-task`: a finished run's model answers a task that it never saw."""

from pathlib import Path
from typing import Annotated

import typer

from peml.cli.options import TrustOption
from peml.cli.sparing import quick_imports


def add_task_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")],
    task_file: Annotated[Path, typer.Argument(help="YAML file of the new task.")],
    shots: Annotated[
        int, typer.Option(min=1, help="Solved rows of the task's train split to show.")
    ],
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
    """Add a task to a finished run's model without training.

    The model has to be a decoder of merged weights, such as a LoRA's, with contexts (lora+context)
    or without. The new task's context, the keys and values of solved rows, is computed from its
    train split; no other split is read.

    Example:
      peml add-task runs/llama tickets.yaml --shots 16
    """
    with quick_imports():
        from peml.errors import renaming
        from peml.export import add_task
        from peml.tasks import load_task_file

    task = load_task_file(task_file)
    folder = None if source is None else str(source)
    with renaming({f"method.context.{name}": f"--{name}" for name in ("shots", "choose")}):
        tokens = add_task(
            run, task, shots, folder, choose=choose, trust_remote_code=trust_remote_code
        )
    typer.echo(f"added {task.name}: a context of {shots} solved rows, {tokens} tokens")
    typer.echo(f"answer its rows: peml predict {run} --task {task.name} --input ROWS --output OUT")
