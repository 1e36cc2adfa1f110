"""A made-up comparison folder, for trying and testing what reads comparisons."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

# name: (metric, rows, majority, what a good method reaches)
_TASKS: dict[str, tuple[str, int, float, float]] = {
    "cola": ("matthews", 1043, 0.0, 0.338),
    "sst2": ("accuracy", 872, 0.509, 0.881),
    "mrpc": ("f1", 408, 0.812, 0.872),
    "stsb": ("pearson", 1500, 0.0, 0.802),
    "qqp": ("f1", 1000, 0.0, 0.741),
    "mnli": ("accuracy", 1000, 0.354, 0.668),
    "qnli": ("accuracy", 1000, 0.505, 0.834),
    "rte": ("accuracy", 277, 0.527, 0.614),
}
# label: (merging, gain over LoRA, search seconds, train seconds, milliseconds a row)
_METHODS: dict[str, tuple[str, float, float, float, float]] = {
    "lora": ("once", 0.0, 0.0, 301.0, 4.1),
    "mtl-lora": ("per task", 0.006, 0.0, 342.0, 5.2),
    "multilora": ("once", -0.004, 0.0, 398.0, 4.1),
    "c-poly": ("per task", 0.003, 0.0, 365.0, 4.9),
    "moe-lora": ("never", -0.03, 0.0, 470.0, 7.8),
    "lora+prefix": ("once", 0.004, 0.0, 322.0, 4.3),
    "peml": ("once", 0.014, 121.0, 214.0, 4.3),
    "rslora": ("once", -0.002, 0.0, 300.0, 4.1),
    "dora": ("once", 0.002, 0.0, 511.0, 4.1),
    "adalora": ("once", -0.012, 0.0, 377.0, 4.1),
    "prefix-nas": ("once", -0.07, 97.0, 150.0, 4.3),
    "prefix-tuning": ("once", -0.08, 0.0, 240.0, 4.3),
    "prompt-tuning": ("once", -0.13, 0.0, 250.0, 4.5),
    "full": ("once", 0.01, 0.0, 640.0, 4.1),
    "frozen": ("once", -0.2, 0.0, 90.0, 4.1),
}
_REASONS = {
    "per task": "its weights differ from task to task",
    "never": "the update depends on the input",
}
_SIZES = {"full": 22_713_216, "frozen": 0}
_BUDGET = 663_552
_FACTORS = [0.5, 1.0, 2.0]
_SEEDS = [0, 1, 2]
_DIVERGED = "training diverged at step 212: the loss is not finite"
_MAJORITY = "at or below the majority baseline"


def write_example_comparison(
    folder: Path, *, methods: int = 7, tasks: int = 8, trouble: bool = True
) -> Path:
    """Writes ``comparison.json`` of a comparison that never took place.

    Args:
        folder: Made if it is missing.
        methods: How many of the 15 methods; PEML, the one in focus, comes seventh.
        tasks: How many tasks; more than eight repeat them under other names.
        trouble: One cell of ``c-poly`` failed, one of ``multilora`` is missing, and ``moe-lora``
            ended at the majority baseline on the last task.

    Returns:
        The folder.
    """
    noise = random.Random(0)
    labels = list(_METHODS)[:methods]
    names = [list(_TASKS)[i % 8] + (f"-{i // 8}" if i >= 8 else "") for i in range(tasks)]
    rows = [_row(label, names, noise, trouble) for label in labels]
    best = max((row for row in rows if row["label"] != "peml"), key=lambda row: row["mean"])
    for row in rows:
        row["difference"] = None if row is best else _difference(row, best, noise)
    comparison = {
        "format": 1,
        "name": "glue-minilm",
        "model": "minilm",
        "device": "cpu (2 threads)",
        "versions": {"peml": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "commit": "0123abc",
        "seeds": _SEEDS,
        "focus": "peml",
        "match": "parameters",
        "budget": _BUDGET,
        "tolerance": 0.05,
        "equal": [
            ["epochs", "3"],
            ["rows per task", "1,000"],
            ["order of the data", "a function of the seed alone"],
            ["tuning", "3 learning-rate factors, chosen on the development split"],
        ],
        "tuning": {"factors": _FACTORS, "epochs": 1.0, "seed": 0},
        "methods": [_method(label) for label in labels],
        "suites": [_suite(names, rows, best["label"])],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2) + "\n"
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    return folder


def _suite(names: list[str], rows: list[dict[str, Any]], best: str) -> dict[str, Any]:
    known = {name: _TASKS[name.partition("-")[0]] for name in names}
    return {
        "name": "glue",
        "tasks": [
            {"name": name, "metric": task[0], "rows": task[1], "majority": task[2]}
            for name, task in known.items()
        ],
        "majority_mean": statistics.fmean(task[2] for task in known.values()),
        "best_baseline": best,
        "rows": rows,
    }


def _method(label: str) -> dict[str, Any]:
    merging = _METHODS[label][0]
    parameters = _SIZES.get(label, _BUDGET - 96 * len(label))
    return {
        "label": label,
        "method": label,
        "size": "" if label in _SIZES else "r=16, alpha=32",
        "merging": merging,
        "reason": _REASONS.get(merging, ""),
        "needs_task_id": merging == "per task",
        "parameters": parameters,
        "off_budget": None if label in _SIZES else parameters / _BUDGET - 1,
    }


def _cell(
    label: str, seed: int, names: list[str], noise: random.Random, trouble: bool
) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "seed": seed,
        "folder": f"cells/glue/{label}-seed{seed}",
        "status": "finished",
        "reason": "",
        "flags": [],
    }
    if trouble and (label, seed) == ("c-poly", 2):
        lost = {"status": "failed", "reason": _DIVERGED, "flags": [f"failed: {_DIVERGED}"]}
        return cell | lost | {"mean": None, "tasks": {}}
    if trouble and (label, seed) == ("multilora", 1):
        return cell | {"status": "missing", "mean": None, "tasks": {}}
    _, gain, search, train, _ = _METHODS[label]
    scores = {}
    for name in names:
        _, _, majority, good = _TASKS[name.partition("-")[0]]
        scores[name] = max(majority, good + gain + noise.gauss(0, 0.009))
    if trouble and label == "moe-lora":
        scores[names[-1]] = _TASKS[names[-1].partition("-")[0]][2]
    at_majority = [n for n in names if scores[n] <= _TASKS[n.partition("-")[0]][2]]
    cell["flags"] = [f"{name}: {_MAJORITY}" for name in at_majority]
    seconds = {"search": search, "train": train * noise.uniform(0.97, 1.03), "evaluate": 21.0}
    return cell | {
        "mean": statistics.fmean(scores.values()),
        "tasks": scores,
        "steps": 1413,
        "seconds": seconds,
        "peak_memory_bytes": int(1.5e9 + 1e6 * train),
        "trainable_parameters": _method(label)["parameters"] + 5775,
    }


def _spread(values: list[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _row(label: str, names: list[str], noise: random.Random, trouble: bool) -> dict[str, Any]:
    cells = [_cell(label, seed, names, noise, trouble) for seed in _SEEDS]
    finished = [cell for cell in cells if cell["status"] == "finished"]
    tasks = {}
    for name in names:
        mean, deviation = _spread([cell["tasks"][name] for cell in finished])
        flags = [_MAJORITY] if mean <= _TASKS[name.partition("-")[0]][2] + 1e-9 else []
        tasks[name] = {"mean": mean, "deviation": deviation, "seeds": len(finished), "flags": flags}
    mean, deviation = _spread([cell["mean"] for cell in finished])
    lost = len(cells) - len(finished)
    train = statistics.fmean(cell["seconds"]["train"] for cell in finished)
    grid = [{"factor": f, "mean": mean - 0.02 * abs(f - 1), "folder": "", "reason": ""}
            for f in _FACTORS]  # fmt: skip
    if trouble and label == "moe-lora":
        grid[-1] |= {"mean": None, "reason": "training diverged at step 88"}
    return {
        "label": label,
        "cells": cells,
        "tasks": tasks,
        "mean": mean,
        "deviation": deviation,
        "seconds": {"tuning": train, "search": _METHODS[label][2], "train": train},
        "peak_memory_bytes": finished[0]["peak_memory_bytes"],
        "trainable_parameters": finished[0]["trainable_parameters"],
        "latency": _METHODS[label][4],
        "factor": 1.0,
        "grid": grid,
        "flags": [f"{lost} of {len(cells)} cells left out of the means"] if lost else [],
    }


def _difference(row: dict[str, Any], best: dict[str, Any], noise: random.Random) -> dict[str, Any]:
    def interval(gap: float, half: float) -> dict[str, float]:
        return {"value": gap, "low": gap - half * noise.uniform(0.9, 1.1), "high": gap + half}

    tasks = {
        name: interval(score["mean"] - best["tasks"][name]["mean"], 0.02)
        for name, score in row["tasks"].items()
    }
    return {**interval(row["mean"] - best["mean"], 0.006), "tasks": tasks}
