"""Tables of the study of 21 tasks: one adapter for all of them against one per suite.

    peml compare benchmarks/studies/many_tasks.yaml --set run.tasks.source=FOLDER
    python benchmarks/studies/many_tasks.py runs/many_tasks

Only seeds of which every run is finished are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

TOGETHER = "together"
METHOD = "peml"

Run = dict[str, Any]


def load_runs(folder: Path) -> dict[str, list[Run]]:
    """Results by suite, of the seeds that are there for every suite, in their order."""
    found: dict[str, dict[str, Run]] = {}
    for path in sorted(folder.glob(f"cells/*/{METHOD}-seed*/results.json")):
        seed, suite = path.parent.name, path.parent.parent.name
        found.setdefault(suite, {})[seed] = json.loads(path.read_text())
    seeds = sorted(set.intersection(*(set(runs) for runs in found.values()))) if found else []
    return {suite: [runs[seed] for seed in seeds] for suite, runs in found.items()}


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation in points."""
    mean = f"{100 * statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def mark(values: list[float], majority: float) -> str:
    """A flag for a mean that is no better than the majority baseline."""
    return " (m)" if statistics.mean(values) <= majority else ""


def task_rows(runs: dict[str, list[Run]]) -> list[str]:
    """One line per task: its suite, both scores, their difference seed by seed, its flag."""
    lines = []
    for suite, apart in runs.items():
        if suite == TOGETHER:
            continue
        for name, task in apart[0]["tasks"].items():
            alone = [run["tasks"][name]["value"] for run in apart]
            joint = [run["tasks"][name]["value"] for run in runs[TOGETHER]]
            gain = [b - a for a, b in zip(alone, joint, strict=True)]
            cells = (
                suite,
                name,
                task["metric"],
                f"{100 * task['majority']:.1f}",
                *(spread(found) + mark(found, task["majority"]) for found in (alone, joint)),
                spread(gain, "+"),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def mean_rows(runs: dict[str, list[Run]]) -> list[str]:
    """The mean over each suite's tasks and over all of them."""
    suites = {suite: list(apart[0]["tasks"]) for suite, apart in runs.items() if suite != TOGETHER}
    groups = {**suites, "all": [name for names in suites.values() for name in names]}
    lines = []
    for group, names in groups.items():
        alone, joint = [], []
        for seed, together in enumerate(runs[TOGETHER]):
            apart = {
                name: task["value"]
                for suite in suites
                for name, task in runs[suite][seed]["tasks"].items()
            }
            alone.append(statistics.mean(apart[name] for name in names))
            joint.append(statistics.mean(together["tasks"][name]["value"] for name in names))
        gain = [b - a for a, b in zip(alone, joint, strict=True)]
        means = f"{spread(alone)} | {spread(joint)} | {spread(gain, '+')}"
        lines.append(f"| {group} | **mean of {len(names)}** | | | {means} |")
    return lines


def cost_rows(runs: dict[str, list[Run]]) -> list[str]:
    """What one adapter costs, and what the adapters of all suites cost in sum."""

    def total(read: Any) -> tuple[float, float]:
        sums = {suite: statistics.mean(read(run["cost"]) for run in runs[suite]) for suite in runs}
        return sum(v for suite, v in sums.items() if suite != TOGETHER), sums[TOGETHER]

    entries = {
        "seconds of search and training": lambda c: sum(
            c["seconds"].get(phase, 0.0) for phase in ("search", "discretise", "train")
        ),
        "tokens trained on": lambda c: sum(c["tokens"].values()),
        "optimiser steps": lambda c: sum(c["steps"].values()),
        "trainable parameters at the end": lambda c: c["total_trainable_parameters"],
    }
    lines = []
    for name, read in entries.items():
        apart, together = total(read)
        lines.append(f"| {name} | {apart:,.0f} | {together:,.0f} |")
    peaks = {
        suite: max(run["cost"]["peak_memory_bytes"] for run in each) / 2**20
        for suite, each in runs.items()
    }
    largest = max(peak for suite, peak in peaks.items() if suite != TOGETHER)
    lines.append(
        f"| peak memory, MiB, of the largest run | {largest:,.0f} | {peaks[TOGETHER]:,.0f} |"
    )
    return lines


def tables(runs: dict[str, list[Run]]) -> str:
    """The tables as Markdown."""
    seeds = len(runs[TOGETHER])
    return "\n".join(
        [
            f"Seeds: {seeds}. (m): at or below the majority baseline.",
            "",
            "| suite | task | metric | majority | one adapter per suite "
            "| one for all | difference |",
            "|---|---|---|--:|--:|--:|--:|",
            *task_rows(runs),
            *mean_rows(runs),
            "",
            "| cost, means over seeds | one adapter per suite, sum | one for all |",
            "|---|--:|--:|",
            *cost_rows(runs),
        ]
    )


def main() -> None:
    """Prints the tables of a comparison's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="folder of the comparison")
    runs = load_runs(parser.parse_args().folder)
    if TOGETHER not in runs or not runs[TOGETHER]:
        parser.error("there is no seed of which every run is finished")
    print(tables(runs))


if __name__ == "__main__":
    main()
