"""Millions of rows of local JSONL: what they take of memory while training draws from them.

The rows are written to a temporary folder and prepared as `peml fit` prepares them: read, split,
searched for leakage, encoded, planned. What is measured is the process's resident memory above
what it was with libraries and model loaded, in preparation and while batches are drawn and trained
on. Pages of mapped files count as resident; the anonymous part, which no other process can use,
stands beside it (Linux).

    python benchmarks/many_rows.py [--rows N] [--steps N] [--folder FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import Figure, at_most, plain_parser, report
from datasets import disable_progress_bars
from sentences import SENTENCES
from transformers.utils import logging

from peml.config.loading import parse_config
from peml.config.model import RunConfig
from peml.models import load_backbone
from peml.run.cost import peak_memory
from peml.run.preparation import prepare
from peml.run.training import attach
from peml.testing import save_tiny_model
from peml.training.optimizer import build_optimizer

LIMIT = 500.0
"""MiB above the model."""
REPORTED = 1000
TASK = {
    "name": "many",
    "type": "classification",
    "source": {"path": "many"},
    "columns": {"inputs": ["text"], "label": "label"},
    "labels": ["no", "yes"],
    "template": "{{ text }}",
    "metrics": ["accuracy"],
}


def write_rows(folder: Path, rows: int) -> Path:
    """A task file and its rows, no two alike; returns the task file."""
    draw = random.Random(0)
    (folder / "many").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", rows), ("validation", REPORTED)):
        with (folder / f"many/{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                text = f"{split} {number}: {SENTENCES[draw.randrange(len(SENTENCES))]}"
                file.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    path = folder / "many.yaml"
    path.write_text(json.dumps(TASK), encoding="utf-8")  # JSON is YAML
    return path


def config_of(folder: Path) -> RunConfig:
    """A run on what `write_rows` wrote, with a tiny model."""
    return parse_config(
        {
            "model": {"name": str(save_tiny_model("bert", folder / "model"))},
            "tasks": {"files": [str(folder / "many.yaml")]},
            "method": {"name": "lora"},
            "training": {"epochs": 1},
        }
    )


def resident() -> dict[str, int]:
    """Bytes of the process's resident memory, all of it and the anonymous part."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {name: int(found[field]) * 1024 for name, field in FIELDS.items()}


FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon"}


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Memory above the loaded model and seconds; run in a fresh process."""
    disable_progress_bars()
    logging.disable_progress_bar()
    config = config_of(folder)
    load_backbone(config.model)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, since = resident(), time.perf_counter()
    prepared = prepare(config)
    prepared_in, peak = time.perf_counter() - since, peak_memory() - before["resident"]
    model = attach(prepared, torch.device("cpu"), None).train()
    optimizer = build_optimizer(model.groups(), config.training)
    most = dict.fromkeys(FIELDS, 0)
    taken = []
    for _ in range(min(steps, prepared.steps.total)):
        begun = time.process_time()
        model(prepared.stream.next()).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(time.process_time() - begun)
        most = {name: max(most[name], value) for name, value in resident().items()}
    above = {name: most[name] - before[name] for name in FIELDS}
    step = statistics.median(taken)
    return {"training": above, "preparation": peak, "seconds": prepared_in, "step": step}


def in_fresh_process(folder: Path, steps: int) -> dict[str, Any]:
    """`measure`, out of reach of what was in memory before."""
    command = [sys.executable, __file__, "--measure", str(folder), "--steps", str(steps)]
    environment = os.environ | {"PEML_CACHE": str(folder / "cache")}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def compare(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Writes the rows, then prepares and trains."""
    write_rows(folder, arguments.rows)
    found = in_fresh_process(folder, arguments.steps)
    training = {name: value / 2**20 for name, value in found["training"].items()}
    return [
        at_most("while training: resident above the model", training["resident"], "MiB", LIMIT),
        Figure("while training: anonymous above the model", training["anonymous"], "MiB"),
        Figure("in preparation: peak above the model", found["preparation"] / 2**20, "MiB"),
        Figure("preparation", found["seconds"], "s"),
        Figure("step, CPU time, median", 1000 * found["step"], "ms"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="train rows")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.steps)))
        return
    with TemporaryDirectory(dir=arguments.folder) as name:
        figures = compare(arguments, Path(name))
    report(f"{arguments.rows:,} rows of local JSONL", figures, arguments)


if __name__ == "__main__":
    main()
