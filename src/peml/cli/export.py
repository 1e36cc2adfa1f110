"""`peml export`: a finished run's model in a format other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peml.cli.options import TrustOption
from peml.errors import ConfigError


def export_command(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder, or its model/ folder; an exported folder with --check."),
    ],
    out: Annotated[Path | None, typer.Argument(help="New or empty folder.")] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="lora: LoRA adapters for PEFT. peft: the merged decoder, with its prefix or "
            "prompt as a PEFT adapter. text: the merged decoder, with each task's context as text. "
            "transformers: the merged decoder, with prefix, prompt or contexts as past_key_values. "
            "cartridge: the same as PEFT's Cartridges. onnx, onnx-int8: an encoder with its heads. "
            "Installed packages may add formats.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task; default: all.")] = None,
    list_formats: Annotated[
        bool, typer.Option("--list", help="Say to which formats the run can be exported.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare with the run's stored predictions, in a fresh process without PEML.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare an exported folder with its checksums.")
    ] = False,
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

    `--format cartridge` writes the merged model, and its prefix or contexts as PEFT's Cartridges.

    `--format onnx` writes an encoder with its prefix and all heads as one file for onnxruntime;
    `onnx-int8` with weights in 8 bits, which changes scores slightly.

    `--list` shows every format, and the reason where this run can't be exported to it.

    `--verify` loads what was written in a fresh process that does without PEML, predicts reported
    rows of each task (up to 16) and compares with the run's stored predictions. The outcome is
    written into the export's manifest and README. `--check` reads it back, and refuses a folder
    with an altered byte.

    Examples:
      peml export --list runs/peml
      peml export runs/mtl-lora adapters --format lora
      peml export runs/mtl-lora adapters --format lora --task sst2
      peml export runs/peml merged --format peft
      peml export runs/peml plain --format transformers --verify
      peml export --check plain
      peml export runs/demo encoder --format onnx
    """
    console = Console()
    if list_formats:
        _print_formats(console, run, trust_remote_code=trust_remote_code)
        return
    if check:
        _check(console, run)
        return
    if out is None or file_format is None:
        missing = "an output folder" if out is None else "--format"
        raise ConfigError(
            f"peml export has no {missing}",
            allowed="peml export RUN OUT --format NAME",
            action="see `peml export --list RUN` for the formats",
        )
    from peml.export import export_model

    prove = None
    if verify:
        from peml.run.verification import against_predictions

        prove = against_predictions(run, trust_remote_code=trust_remote_code)
    folders = export_model(
        run, out, file_format, task, prove=prove, trust_remote_code=trust_remote_code
    )
    for folder in folders:
        console.print(str(folder), highlight=False, markup=False, soft_wrap=True)


def _print_formats(console: Console, run: Path, *, trust_remote_code: bool) -> None:
    from peml.export import list_exports
    from peml.terminal import Column, print_table

    rows = [("native", "yes", "it is the run's model/ folder")]
    for name, problem in list_exports(run, trust_remote_code=trust_remote_code).items():
        if problem is None:
            rows.append((name, "yes", f"peml export {run} OUT --format {name}"))
        else:
            rows.append((name, "no", problem.problem))
    columns = (Column("format"), Column("possible"), Column("how, or why not", fold=True))
    print_table(console, columns, rows)


def _check(console: Console, folder: Path) -> None:
    from peml.export import check_export

    verified = check_export(folder)
    console.print(f"{folder}: every file is as it was written", highlight=False, markup=False)
    if found := verified.get("predictions"):
        said = f"{found['same']} of {found['rows']} rows had the run's answers when it was written"
        console.print(said, highlight=False)
