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
            help="lora: LoRA adapters for PEFT. peft: the merged decoder, with its prefix or "
            "prompt as a PEFT adapter. text: the merged decoder, with each task's context as text. "
            "transformers: the merged decoder, with prefix, prompt or contexts as past_key_values. "
            "Installed packages may add formats.",
        ),
    ],
    task: Annotated[str | None, typer.Option(help="Only this task; default: all.")] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Export a finished run's model for other tools.

    `--format lora` writes LoRA adapters that PEFT loads onto the base model: one for all tasks,
    or one per task if the method needs the task id.

    `--format peft` writes the merged model for Transformers. A prefix or prompt becomes a PEFT
    adapter beside it. This works for decoders; with a prefix, for decoders with rotary positions
    (Llama, Qwen, Phi, ...).

    `--format text` writes the merged model and, for each task, the text to put in front of its
    rows. This works for decoders trained with `method.context.of: adapted`.

    `--format transformers` writes the merged model, and keys and values of its prefix, prompt or
    contexts, which the README's ten lines put into Transformers' cache. This works for decoders;
    with a prefix or contexts, for decoders with rotary positions.

    Examples:
      peml export runs/mtl-lora adapters --format lora
      peml export runs/mtl-lora adapters --format lora --task sst2
      peml export runs/peml merged --format peft
      peml export runs/peml plain --format transformers
    """
    from peml.export import export_model

    folders = export_model(run, out, file_format, task, trust_remote_code=trust_remote_code)
    console = Console()
    for folder in folders:
        console.print(str(folder), highlight=False, markup=False, soft_wrap=True)
