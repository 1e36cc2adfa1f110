"""`peml predict`: answers for rows of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from peml.errors import DataError
from peml.evaluation import EvaluationSettings
from peml.files import write_text
from peml.serving import load

__all__ = ["predict_command"]


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model/ folder.")],
    task: Annotated[str, typer.Option(help="Task the rows belong to.")],
    input_file: Annotated[
        Path, typer.Option("--input", "-i", help="JSON lines with the task's input columns.")
    ],
    output_file: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines: row, prediction, scores.")
    ],
    tokens: Annotated[int, typer.Option(min=16, help="Most tokens of a batch.")] = 8192,
) -> None:
    """Predict rows of one task with a finished run's model.

    Example:
      peml predict runs/demo --task reviews --input rows.jsonl --output answers.jsonl
    """
    rows = _read_rows(input_file)
    answers = load(run).predict(task, rows, EvaluationSettings(tokens=tokens))
    lines = [
        json.dumps(
            {"row": number, "prediction": answer.value, "scores": answer.scores},
            ensure_ascii=False,
        )
        for number, answer in enumerate(answers)
    ]
    write_text(output_file, "".join(line + "\n" for line in lines))
    Console().print(f"{len(lines)} predictions in {output_file}", highlight=False)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}", action="check the path") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not JSON: {error}", action="correct the line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number} holds {type(row).__name__}, not an object",
                allowed='one object a line, such as {"sentence": "..."}',
            )
        rows.append(row)
    return rows
