"""A suite of a thousand task files: seconds to load, check and start it, and memory of a task.

Every task has a file of its own and a folder with a few rows. Loading is reading the suite;
starting is everything `peml fit` does up to its first training batch, libraries and model left
out. Each number of tasks is measured in a fresh process, with a cache that holds nothing, and once
more with the cache that the first start has filled.

    python benchmarks/many_task_files.py [--few N] [--many N] [--json FILE]
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
from tempfile import TemporaryDirectory
from typing import Any

from common import Figure, at_most, plain_parser, report
from datasets import disable_progress_bars
from many_rows import resident
from sentences import SENTENCES
from transformers.utils import logging

from peml.config.loading import parse_config
from peml.config.model import RunConfig
from peml.models import load_backbone
from peml.run.preparation import prepare
from peml.tasks import load_suite
from peml.testing import save_tiny_model

LIMIT = 5.0
"""Seconds to load, check and start the suite."""
ROWS = {"train": 8, "validation": 4}
STEPS = 3


def write_suite(folder: Path, tasks: int) -> Path:
    """A suite's file, its tasks' files and their rows; returns the suite's."""
    for number in range(tasks):
        name = f"task{number}"
        task = {
            "name": name,
            "type": "classification",
            "source": {"path": name},
            "columns": {"inputs": ["text"], "label": "label"},
            "labels": ["no", "yes"],
            "template": f"Question {number}: {{{{ text }}}}\nAnswer:",
            "metrics": ["accuracy", "macro_f1"],
        }
        (folder / name).mkdir(parents=True)
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(task, indent=2), encoding="utf-8")
        for split, count in ROWS.items():
            rows = [
                {"text": f"{split} {number}.{row} {SENTENCES[row]}", "label": row % 2}
                for row in range(count)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    path = folder / "suite.yaml"
    listed = "".join(f"  - file: task{number}.yaml\n" for number in range(tasks))
    path.write_text(f"name: many\ntasks:\n{listed}", encoding="utf-8")
    return path


def config_of(folder: Path) -> RunConfig:
    """A run on what `write_suite` wrote, with a tiny model."""
    return parse_config(
        {
            "model": {"name": str(folder / "model")},
            "tasks": {"suite": str(folder / "suite.yaml")},
            "method": {"name": "lora"},
            "training": {"epochs": 1},
        }
    )


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of loading and of starting, and bytes kept; run in a fresh process."""
    disable_progress_bars()
    logging.disable_progress_bar()
    config = config_of(folder)
    load_backbone(config.model)
    load_suite("demo")  # libraries are loaded by their first use
    before, since, computed = resident()["anonymous"], time.perf_counter(), time.process_time()
    suite = load_suite(folder / "suite.yaml")
    loaded = time.perf_counter() - since
    since = time.perf_counter()
    prepared = prepare(config)
    for _ in range(STEPS):
        prepared.stream.next()
    started, computed = time.perf_counter() - since, time.process_time() - computed
    kept = resident()["anonymous"] - before
    found = {"load": loaded, "start": started, "cpu": computed, "bytes": kept}
    return found | {"tasks": len(suite.tasks)}


def in_fresh_process(folder: Path) -> dict[str, Any]:
    """`measure`, out of reach of what was in memory before."""
    command = [sys.executable, __file__, "--measure", str(folder)]
    environment = os.environ | {"PEML_CACHE": str(folder / "cache")}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def compare(folder: Path, few: int, many: int) -> list[Figure]:
    """Both numbers of tasks, each with an empty and with a filled cache."""
    found: dict[int, list[dict[str, Any]]] = {}
    for tasks in (few, many):
        place = folder / str(tasks)
        write_suite(place, tasks)
        save_tiny_model("bert", place / "model")
        found[tasks] = [in_fresh_process(place) for _ in range(2)]
    first, second = found[many]
    grown = (first["bytes"] - found[few][0]["bytes"]) / (many - few)
    per_task = [few / many * found[many][run]["cpu"] / found[few][run]["cpu"] for run in range(2)]
    return [
        Figure(f"{many} task files: load and check", first["load"], "s"),
        at_most(f"{many} task files: to the first batch", first["start"], "s", LIMIT),
        at_most(f"{many} task files: again, cache filled", second["start"], "s", LIMIT),
        Figure(f"a task more, from {few} to {many}: memory", grown / 1024, "KiB"),
        Figure(f"CPU time of a task, {many} / {few}", per_task[0], "ratio"),
        Figure("the same, cache filled", per_task[1], "ratio"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("--few", type=int, default=100, help="fewest tasks")
    parser.add_argument("--many", type=int, default=1000, help="most tasks")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    with TemporaryDirectory() as name:
        figures = compare(Path(name), arguments.few, arguments.many)
    report("Many task files", figures, arguments)


if __name__ == "__main__":
    main()
