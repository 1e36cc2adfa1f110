"""`peml export`: a finished run's model in a format other tools read."""

from pathlib import Path
from typing import Annotated

import typer

from peml.cli.options import TrustOption
from peml.cli.sparing import quick_imports
from peml.errors import ConfigError
from peml.terminal import Column, open_console, print_table

_FormatOption = Annotated[
    str | None, typer.Option("--format", help="A format that `--list` shows.")
]
_TaskOption = Annotated[str | None, typer.Option(help="Only this task; default: all.")]
_ListOption = Annotated[
    bool, typer.Option("--list", help="List the formats that the run can be exported to.")
]
_VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Compare with the run's stored predictions, in a fresh process without PEML.",
    ),
]
_CheckOption = Annotated[
    bool, typer.Option("--check", help="Compare an exported folder with its checksums.")
]


def export_command(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder, or its model/ folder; an exported folder with --check."),
    ],
    out: Annotated[Path | None, typer.Argument(help="New or empty folder.")] = None,
    file_format: _FormatOption = None,
    task: _TaskOption = None,
    list_formats: _ListOption = False,
    verify: _VerifyOption = False,
    check: _CheckOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Export a finished run's model for other tools.

    Formats (decoders with a prefix or contexts need rotary positions: Llama, Qwen, Phi, ...):

    lora: LoRA adapters for PEFT, one for all tasks, or one per task if the method needs the id.

    peft: the merged decoder, its prefix or prompt as a PEFT adapter beside it.

    text: the merged decoder trained with `method.context.of: adapted`, and each task's context.

    transformers: the merged decoder, its prefix, prompt or contexts for Transformers' cache.

    cartridge: the same as PEFT's Cartridges, for a prefix or contexts.

    gguf: merged weights and tokenizer of a Llama without a prefix, for llama.cpp.

    onnx, onnx-int8: an encoder with prefix and heads, one file; int8 changes scores slightly.

    `--verify` predicts reported rows of each task (up to 16) in a process without PEML, and writes
    the outcome into manifest and README. `--check` repeats that outcome, and refuses a folder in
    which any byte has changed.

    Examples:
      peml export --list runs/peml
      peml export runs/mtl-lora adapters --format lora --task sst2
      peml export runs/peml plain --format transformers --verify
      peml export --check plain
    """
    exports = bool(out or file_format or task or verify)
    if list_formats + check + exports > 1:
        raise ConfigError(
            "--list and --check stand alone: nothing is exported",
            allowed="peml export --list RUN, peml export --check FOLDER",
            action="leave out the other arguments, or --list and --check",
        )
    if list_formats:
        _print_formats(run, trust_remote_code=trust_remote_code)
    elif check:
        _check(run)
    elif out is None or file_format is None:
        raise ConfigError(
            "peml export needs an output folder and --format",
            allowed="peml export RUN OUT --format NAME",
            action="see `peml export --list RUN` for the formats",
        )
    else:
        _export(run, out, file_format, task, verify=verify, trust_remote_code=trust_remote_code)


def _export(
    run: Path, out: Path, file_format: str, task: str | None, *, verify: bool, **trusts: bool
) -> None:
    with quick_imports():
        from peml.export import export_model
        from peml.run.verification import against_predictions

    prove = against_predictions(run, **trusts) if verify else None
    for folder in export_model(run, out, file_format, task, prove=prove, **trusts):
        typer.echo(folder)


def _print_formats(run: Path, *, trust_remote_code: bool) -> None:
    from peml.export import list_exports

    rows = [("native", "yes", "it is the run's model/ folder")]
    for name, problem in list_exports(run, trust_remote_code=trust_remote_code).items():
        how = f"peml export {run} OUT --format {name}" if problem is None else problem.problem
        rows.append((name, "yes" if problem is None else "no", how))
    columns = (Column("format"), Column("possible"), Column("how, or why not", fold=True))
    print_table(open_console(), columns, rows)


def _check(folder: Path) -> None:
    from peml.export import check_export

    verified = check_export(folder)
    typer.echo(f"{folder}: every file is as it was written")
    if found := verified.get("predictions"):
        rows = f"{found['same']} of {found['rows']} rows"
        typer.echo(f"{rows} had the run's answers when it was written")
