"""Options that several commands have, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, any number of times.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder; default: runs/NAME.")
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time; default: the config's `jobs`.")
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help="Where they run: inline, processes or ray; default: the config's."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="The Ray cluster, HOST:PORT or auto; default: one on this machine."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. Read it first."
    ),
]
