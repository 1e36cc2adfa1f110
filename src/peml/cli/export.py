"""`peml export`: a finished run's model in a format other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peml.cli.options import TrustOption


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")],
    out: Annotated[Path, typer.Argument(help="New or empty folder.")],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="lora: ordinary LoRA adapters for PEFT. peft: the merged decoder, and its "
            "prefix or prompt as PEFT's. Or a format that an installed package adds.",
        ),
    ],
    task: Annotated[str | None, typer.Option(help="Only this task; default: all.")] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a finished run's model for other tools.

    `--format lora` makes LoRA adapters that plain PEFT loads onto the base model: one for all
    tasks, or one per task for the methods that tell tasks apart.

    `--format peft` makes the merged model that plain Transformers loads, and beside it, where the
    method trained a prefix or a prompt, an adapter that plain PEFT puts in front of it. For
    decoders; with a prefix, for those with rotary positions (Llama, Qwen, Phi, ...).

    Examples:
      peml export runs/mtl-lora adapters --format lora
      peml export runs/mtl-lora adapters --format lora --task sst2
      peml export runs/peml merged --format peft
    """
    from peml.export import export_model

    folders = export_model(run, out, file_format, task, trust_remote_code=trust_remote_code)
    console = Console()
    for folder in folders:
        console.print(str(folder), highlight=False, markup=False, soft_wrap=True)
