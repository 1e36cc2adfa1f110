"""`peml predict` on a large file: memory above the model, and speed against the evaluation.

The rows are short (the demo's `topics`) and each has an id that is passed through. Memory is the
process's resident memory above what it was after a first window was answered, the model loaded.
Speed is rows per second of reading, rendering, tokenising, predicting and writing a file against
`predict_split` on rows that are tokenised already, as an evaluation has them.

    python benchmarks/bulk_prediction.py [--rows N] [--speed-rows N] [--model NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import CLOCKS, Figure, at_least, at_most, plain_parser, ratio_of_medians, report
from many_rows import resident

from peml.data.encoding import encode_split
from peml.data.files import read_files
from peml.data.unlabelled import UnlabelledFile
from peml.evaluation import predict_split
from peml.models import ModelSettings, TaskModel, choose_device, load_backbone
from peml.run.cost import peak_memory
from peml.serving import Predictor
from peml.serving.bulk import BulkPrediction
from peml.serving.formats import JsonLines
from peml.tasks import Task, load_suite
from peml.testing import save_tiny_model

LIMIT, LEAST = 300.0, 0.9
_TASK = "topics"
_PARTS = ("Striker signs", "Shares fall", "Minister resigns", "Probe lands", "Coach leaves")
_ENDS = ("for two more seasons", "after the vote", "on the moon", "as rates rise", "in the final")


def topics() -> Task:
    """The demo's task."""
    return next(task for task in load_suite("demo").tasks if task.name == _TASK)


def write_rows(path: Path, rows: int) -> Path:
    """Headlines with a label and an id."""
    label = topics().labels[0]
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            headline = " ".join([_PARTS[n % 5], *(_ENDS[(n + k) % 5] for k in range(1 + n % 3))])
            file.write(json.dumps({"id": n, "headline": headline, "label": label}) + "\n")
    return path


def predictor(name: str, folder: Path) -> Predictor:
    """The demo's task on a model as it comes; what its heads say doesn't matter here."""
    name = str(save_tiny_model("bert", folder / "model")) if name == "tiny" else name
    model = TaskModel(load_backbone(ModelSettings(name=name)), (topics(),))
    return Predictor(model.to(choose_device("auto")).eval())


def bulk(model: Predictor, path: Path) -> BulkPrediction:
    """The prediction of a file."""
    rows = UnlabelledFile(path, topics(), ("id",))
    return BulkPrediction(model, _TASK, rows, JsonLines(rows, topics()))


def measure_memory(folder: Path, name: str) -> dict[str, float]:
    """Peak above the loaded model, and rows per second; run in a fresh process."""
    model = predictor(name, folder)
    first = write_rows(folder / "first.jsonl", 2048)
    bulk(model, first).write_file(folder / "first.out.jsonl", {})
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, since = resident()["resident"], time.perf_counter()
    work = bulk(model, folder / "rows.jsonl")
    work.write_file(folder / "answers.jsonl", {})
    seconds = time.perf_counter() - since
    return {"memory": (peak_memory() - before) / 2**20, "rows_per_second": work.done / seconds}


def in_fresh_process(folder: Path, name: str) -> dict[str, float]:
    """`measure_memory`, out of reach of what was in memory before."""
    command = [sys.executable, __file__, "--measure", str(folder), "--model", name]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def measure_speed(folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Interleaved rounds of predicting a file and of evaluating the same rows."""
    model = predictor(arguments.model, folder)
    path = write_rows(folder / "speed.jsonl", arguments.speed_rows)
    rows, clock = read_files([path], topics()), CLOCKS[arguments.clock]
    split = encode_split(rows, topics(), model.base.family, "score", cache=folder / "cache")
    sides: dict[str, Any] = {
        "evaluation": lambda: predict_split(model, split, 0, model.evaluation),
        "file": lambda: bulk(model, path).write_file(folder / "speed.out.jsonl", {}),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for side in sides.values():
        side()
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            since = clock()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - since)
    ratio = ratio_of_medians(seconds["evaluation"], seconds["file"])
    return [
        at_least(f"rows/s against evaluation, {ratio}", ratio.value, "ratio", LEAST),
        *(
            Figure(f"{name} ({arguments.clock} time)", len(split) / median(t), "rows/s")
            for name, t in seconds.items()
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large file")
    parser.add_argument("--speed-rows", type=int, default=8192, help="rows of a timed round")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    parser.add_argument("--model", default="minilm", help="an encoder; default: minilm")
    parser.add_argument("--memory-model", help="for the large file; tiny is a model of 100 KB")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall, or cpu time")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure_memory(arguments.measure, arguments.model)))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", arguments.rows)
        found = in_fresh_process(folder, arguments.memory_model or arguments.model)
        figures = [
            at_most(f"{arguments.rows:,} rows: above the model", found["memory"], "MiB", LIMIT),
            Figure(f"{arguments.rows:,} rows", found["rows_per_second"], "rows/s"),
            *measure_speed(folder, arguments),
        ]
    report("peml predict on a large file", figures, arguments)


if __name__ == "__main__":
    main()
