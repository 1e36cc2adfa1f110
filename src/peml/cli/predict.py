"""`peml predict`: answers for rows of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peml.cli.options import TrustOption
from peml.errors import placed
from peml.files import write_text


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")],
    task: Annotated[str, typer.Option(help="Name of the rows' task.")],
    input_file: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            help="JSONL, CSV (also gzipped) or Parquet file with the task's columns.",
        ),
    ],
    output_file: Annotated[
        Path, typer.Option("--output", "-o", help="JSONL file to write: row, prediction, scores.")
    ],
    device: Annotated[
        str,
        typer.Option(help="auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N."),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="Type of the frozen weights: auto (as saved), float32, bfloat16 or float16."
        ),
    ] = "auto",
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens", "--tokens", help="Maximum tokens of a batch; default: as in the run."
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Predict rows of a task with a finished run's model and evaluation settings.

    Example:
      peml predict runs/demo --task reviews --input rows.jsonl --output answers.jsonl
    """
    from peml.data.files import read_unlabelled
    from peml.data.lines import check_file
    from peml.serving import load

    check_file(input_file)
    model = load(
        run, device, dtype=dtype, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code
    )
    rows = list(read_unlabelled(input_file, model.task(task)))
    with placed(str(input_file)):
        answers = model.predict(task, rows)
    lines = [
        json.dumps(
            {"row": number, "prediction": answer.value, "scores": answer.scores},
            ensure_ascii=False,
            allow_nan=False,
        )
        for number, answer in enumerate(answers)
    ]
    write_text(output_file, "".join(line + "\n" for line in lines))
    console = Console()
    console.print(f"{len(lines)} predictions in {output_file}", highlight=False)
    cut = sum(answer.cut > 0 for answer in answers)
    if cut:
        said = f"{cut} of {len(answers)} rows were longer than the model takes, and were cut"
        console.print(said, style="yellow")
