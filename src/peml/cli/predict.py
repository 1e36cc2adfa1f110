"""`peml predict`: answers for rows of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peml.cli.options import (
    BatchTokensOption,
    DeviceOption,
    DtypeOption,
    RunArgument,
    TrustOption,
)
from peml.cli.sparing import limit_kernels, quick_imports, rest_idle_threads, skip_pandas
from peml.cli.streams import STREAM, as_file, format_of
from peml.errors import ConfigError
from peml.files import refuse_sealed
from peml.terminal import open_console

if TYPE_CHECKING:
    from peml.serving import Predictor
    from peml.serving.bulk import BulkPrediction

_READS = "JSONL, CSV (also gzipped) or Parquet file with the task's columns; - for standard input."
_WRITES = (
    "JSONL, CSV or Parquet file to write: row, kept columns, prediction, scores; - for standard "
    "output."
)
RowsOption = Annotated[Path, typer.Option("--input", "-i", help=_READS)]
AnswersOption = Annotated[Path, typer.Option("--output", "-o", help=_WRITES)]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column to pass through. Can be repeated."),
]
KeepAllOption = Annotated[
    bool, typer.Option("--keep-all", help="Pass all columns of the rows through.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(help="jsonl, csv or parquet; default: by the file's ending, - is jsonl."),
]
WindowOption = Annotated[
    int | None,
    typer.Option(min=1, help="Rows that are read, sorted and kept at a time; default: 2048."),
]


def predict_command(
    run: RunArgument,
    task: Annotated[str, typer.Option(help="Name of the rows' task.")],
    input_file: RowsOption,
    output_file: AnswersOption,
    keep: KeepOption = None,
    keep_all: KeepAllOption = False,
    input_format: FormatOption = None,
    output_format: Annotated[str | None, typer.Option(help="As --input-format.")] = None,
    window: WindowOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Predict rows of a task with a finished run's model and evaluation settings.

    The output appears when it is complete. If the command is stopped, call it again: it continues
    where it stopped.

    Examples:
      peml predict runs/demo --task reviews --input rows.jsonl --output answers.jsonl
      peml predict runs/demo --task reviews -i rows.parquet -o answers.csv --keep id
    """
    written = _check(input_file, output_file, output_format)
    limit_kernels()
    skip_pandas()
    rest_idle_threads()
    with as_file(input_file, input_format) as path:
        with quick_imports():
            from peml.data.lines import check_file
            from peml.data.unlabelled import UnlabelledFile
            from peml.serving import load
            from peml.serving.bulk import WINDOW, BulkPrediction
            from peml.serving.formats import FORMATS

        check_file(path)
        model = load(
            run, device, dtype=dtype, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code
        ).prepack()
        definition = model.task(task)
        rows = UnlabelledFile(path, definition, None if keep_all else keep or ())
        form = FORMATS[written](rows, definition)
        work = BulkPrediction(model, task, rows, form, window or WINDOW)
        _write(work, output_file, _source(model, task, written))
    _say(work, output_file)


def _check(input_file: Path, output_file: Path, output_format: str | None) -> str:
    """The output's format; refuses an output that can't be written."""
    written = format_of(output_file, output_format, "--output-format")
    if output_file == STREAM:
        return written
    problem = ""
    if output_file.suffix == ".gz":
        problem = f"{output_file} is to be compressed with gzip"
    elif output_file.is_dir():
        problem = f"{output_file} is a folder"
    elif input_file != STREAM and output_file.exists() and output_file.samefile(input_file):
        problem = f"{output_file} is the input as well"
    if problem:
        raise ConfigError(
            problem,
            allowed="a new JSONL, CSV or Parquet file, or an old one to replace",
            action="choose another output",
        )
    refuse_sealed(output_file)
    return written


def _write(work: BulkPrediction, output: Path, source: dict[str, str]) -> None:
    console = open_console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar_task = bar.add_task("", total=work.rows.rows)
        work.advance = lambda count: bar.advance(bar_task, count)
        if output == STREAM:
            work.write_to(sys.stdout.buffer)
        else:
            work.write_file(output, source)


def _source(model: Predictor, task: str, written: str) -> dict[str, str]:
    """What answers depend on besides their rows."""
    return {
        "model": model.digest,
        "task": task,
        "device": model.base.device.type,
        "dtype": model.base.settings.dtype,
        "evaluation settings": model.evaluation.model_dump_json(),
        "format": written,
    }


def _say(work: BulkPrediction, output: Path) -> None:
    console = open_console(stderr=output == STREAM)
    if output != STREAM:
        console.print(f"{work.done} predictions in {output}")
    if work.reused:
        console.print(f"{work.reused} of them were predicted before the command was stopped")
    if work.cut:
        said = f"{work.cut} of {work.done} rows were longer than the model takes, and were cut"
        console.print(said, style="yellow")
