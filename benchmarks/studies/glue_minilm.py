"""GLUE with MiniLM: LoRA alone, LoRA with a fixed MLP prefix, and PEML; three seeds.

Each cell is an ordinary run folder, so a stopped study goes on where it was:

    python benchmarks/studies/glue_minilm.py --source FOLDER --runs runs/glue-minilm

``--collect`` only writes the table from the runs that are finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = {
    "lora": ["method={name: lora}", "evaluation.ablations=false"],
    "lora+prefix": ["method={name: lora+prefix}", "evaluation.ablations=false"],
    "peml": ["method={name: peml}"],
}
SEEDS = (0, 1, 2)


def folder_of(runs: Path, method: str, seed: int) -> Path:
    """Run folder of one cell."""
    return runs / f"{method.replace('+', '-')}-seed{seed}"


def run_cells(source: str, runs: Path, extra: list[str]) -> None:
    """Runs or resumes every cell, seed by seed."""
    for seed in SEEDS:
        for method, overrides in METHODS.items():
            settings = [f"tasks.source={source}", f"seed={seed}", *overrides, *extra]
            arguments = [word for setting in settings for word in ("--set", setting)]
            output = str(folder_of(runs, method, seed))
            command = [sys.executable, "-m", "peml", "fit", "examples/glue.yaml", *arguments]
            subprocess.run([*command, "--output", output], check=True)


def load_cells(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of the finished cells by method."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        paths = [folder_of(runs, method, seed) / "results.json" for seed in SEEDS]
        cells[method] = [json.loads(path.read_text()) for path in paths if path.is_file()]
    return cells


def spread(values: list[float]) -> str:
    """Mean and standard deviation in points."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(cells: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown tables: scores and costs."""
    methods = [method for method in cells if cells[method]]
    first = cells[methods[0]][0]
    lines = [
        "| task | metric | majority | " + " | ".join(methods) + " |",
        "|---|---|--:|" + "--:|" * len(methods),
    ]
    for name, task in first["tasks"].items():
        row = [spread([run["tasks"][name]["value"] for run in cells[m]]) for m in methods]
        lines.append(
            f"| {name} | {task['metric']} | {100 * task['majority']:.1f} | {' | '.join(row)} |"
        )
    means = [spread([run["mean"] for run in cells[m]]) for m in methods]
    lines.append(f"| **mean** | | {100 * first['majority_mean']:.1f} | {' | '.join(means)} |")
    without = [spread([mean_without(run, "wnli") for run in cells[m]]) for m in methods]
    lines.append(f"| mean without wnli | | | {' | '.join(without)} |")
    lines += ["", *cost_table(cells, methods)]
    return "\n".join(lines) + "\n"


def mean_without(run: dict[str, Any], left_out: str) -> float:
    """Mean over all tasks but one."""
    kept = [float(task["value"]) for name, task in run["tasks"].items() if name != left_out]
    return statistics.mean(kept)


def trained_parameters(run: dict[str, Any]) -> float:
    """Parameters that train to the end: LoRA, heads, and the prefix network that was chosen."""
    return float(run["cost"]["total_trainable_parameters"])


def seconds(phase: str) -> Callable[[dict[str, Any]], float]:
    """Reads the seconds of a phase from a run's results."""
    return lambda run: float(run["cost"]["seconds"].get(phase, 0.0))


def cost_table(cells: dict[str, list[dict[str, Any]]], methods: list[str]) -> list[str]:
    """Seconds, memory and parameters, means over seeds."""
    rows: dict[str, Callable[[dict[str, Any]], float]] = {
        "seconds searching": seconds("search"),
        "seconds discretising": seconds("discretise"),
        "seconds training": seconds("train"),
        "peak memory, MiB": lambda run: float(run["cost"]["peak_memory_bytes"]) / 2**20,
        "trainable parameters": trained_parameters,
    }
    lines = ["| cost | " + " | ".join(methods) + " |", "|---|" + "--:|" * len(methods)]
    lines.append("| finished seeds | " + " | ".join(str(len(cells[m])) for m in methods) + " |")
    for name, read in rows.items():
        shown = [f"{statistics.mean(read(run) for run in cells[m]):,.0f}" for m in methods]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def main() -> None:
    """Runs the study and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--source", help="folder with the GLUE tasks")
    parser.add_argument("--runs", type=Path, default=Path("runs/glue-minilm"))
    parser.add_argument("--set", action="append", default=[], dest="extra", help="more overrides")
    parser.add_argument("--collect", action="store_true", help="only print the tables")
    arguments = parser.parse_args()
    if not arguments.collect:
        run_cells(arguments.source, arguments.runs, arguments.extra)
    print(table(load_cells(arguments.runs)))


if __name__ == "__main__":
    main()
