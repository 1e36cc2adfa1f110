"""Options that several commands have, worded once."""

from pathlib import Path
from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: section.key=value. Can be repeated."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Output folder; default: runs/NAME, or that of the config."
    ),
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time; default: `jobs` in the config.")
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help="Where to run: inline, processes or ray; default: as in the config."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster, HOST:PORT or auto; default: this machine."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. Read it first."
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")]
DeviceOption = Annotated[
    str, typer.Option(help="auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N.")
]
DtypeOption = Annotated[
    str,
    typer.Option(help="Type of the frozen weights: auto (as saved), float32, bfloat16 or float16."),
]
BatchTokensOption = Annotated[
    int | None,
    typer.Option(
        "--batch-tokens", "--tokens", help="Maximum tokens of a batch; default: as in the run."
    ),
]
