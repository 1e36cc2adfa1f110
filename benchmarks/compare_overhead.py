"""What `peml compare` adds to the sum of its runs.

The comparison is one command; then every run of it is made again as a `peml fit` command of its
own, from the config its folder holds. What the two took is compared, processes and all.

    python benchmarks/compare_overhead.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from common import Figure, at_most, benchmark_parser, report

METHODS = ("lora", "mtl-lora", "peml")
"""They share data and model, and PEML has a search besides."""

_SUBREAPER = 36  # of Linux's prctl: orphans become this process's children


@dataclass(frozen=True)
class Spent:
    """What commands took: seconds on the wall, and of processor time with all their children."""

    wall: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)


def comparison(arguments: argparse.Namespace) -> dict[str, Any]:
    """The config: every method, two learning rates on the development split, the seeds."""
    tasks: dict[str, Any] = {"suite": "demo", "exclude": ["clock"]}
    if arguments.source is not None:
        tasks = {"suite": "glue", "source": arguments.source, "missing": "skip"}
    return {
        "run": {
            "model": {"name": arguments.model, "max_length": 64},
            "tasks": {
                **tasks,
                "rows": arguments.rows,
                "evaluation_rows": arguments.rows,
                "development_rows": max(2, arguments.rows // 10),
            },
            "batches": {"tokens": 2048, "rows": 16},
            "training": {"epochs": arguments.epochs},
            "evaluation": {"ablations": False},
        },
        "methods": {name: {} for name in METHODS},
        "seeds": list(range(arguments.seeds)),
        "tuning": {"factors": [1, 2], "epochs": arguments.epochs},
    }


def spend(*words: str) -> Spent:
    """Runs `peml` with these words; its output is shown if it fails."""
    return count([sys.executable, "-m", "peml", *words])


def count(command: Sequence[str]) -> Spent:
    """Runs a command and counts what it leaves behind, too: the server that workers fork from."""
    _adopt_orphans(True)
    before, since = _children(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        failed, wall = process.wait(), time.perf_counter() - since
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-process.pid, 0)
        _adopt_orphans(False)
        if failed:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read()}")
    return Spent(wall, _children() - before)


def _adopt_orphans(on: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, int(on), 0, 0, 0)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Ratios of what the comparison took to what its runs take one by one."""
    config, together, apart = folder / "compare.yaml", folder / "together", folder / "apart"
    config.write_text(yaml.safe_dump(comparison(arguments)), encoding="utf-8")
    whole = spend("compare", str(config), "--output", str(together))
    runs = sorted(path.parent for path in together.glob("*/**/config.yaml"))
    parts = Spent(0.0, 0.0)
    for number, run in enumerate(runs):
        parts += spend("fit", str(run / "config.yaml"), "--output", str(apart / str(number)))
    name = f"peml compare / its {len(runs)} runs"
    return [
        at_most(f"{name}, wall-clock time", whole.wall / parts.wall, "ratio", 1.03),
        at_most(f"{name}, processor time", whole.cpu / parts.cpu, "ratio", 1.03),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=500, help="train rows per task")
    parser.add_argument("--epochs", type=float, default=1, help="epochs of every run")
    parser.add_argument("--seeds", type=int, default=2, help="runs of a method, besides its grid")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    report("Overhead of a comparison", figures, arguments)


if __name__ == "__main__":
    main()
