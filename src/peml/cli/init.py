"""`peml init`: a config, a task and a few rows to start from."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from peml.errors import RunError
from peml.files import write_text

_FILES = ("config.yaml", "tickets.yaml", "tickets/train.jsonl", "tickets/validation.jsonl")


def init_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder for the files; created if it doesn't exist.")
    ] = Path(),
) -> None:
    """Write a config, a task file and ten rows as a starting point.

    They train as they are. Nothing that is there already is overwritten.

    Example:
      peml init my-tasks
    """
    places = (folder, folder / "tickets")
    there = [str(place) for place in places if place.exists() and not place.is_dir()]
    there += [str(folder / name) for name in _FILES if (folder / name).exists()]
    if there:
        raise RunError(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already; nothing was "
            "written",
            allowed="a folder without files of these names",
            action="name another folder: peml init FOLDER",
        )
    starter = resources.files("peml.cli") / "starter"
    # The folder and a slash, inside a double-quoted text of YAML; nothing for this folder.
    quoted = folder.as_posix().replace("\\", "\\\\").replace('"', '\\"')
    inside = "" if folder == Path() else f"{quoted}/"
    for name in _FILES:
        text = (starter / name).read_text(encoding="utf-8")
        write_text(folder / name, text.replace('"FOLDER/', f'"{inside}'))
        typer.echo(f"wrote {folder / name}")
    config, task = folder / "config.yaml", folder / "tickets.yaml"
    rows = folder / "tickets" / "validation.jsonl"
    typer.echo(
        "\nEdit them, or run them as they are:\n"
        f"  peml tasks check {task}\n"
        f"  peml fit {config}\n"
        f"  peml predict {folder / 'run'} --task tickets --input {rows} "
        f"--output {folder / 'answers.jsonl'}"
    )
