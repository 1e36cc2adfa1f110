"""Comparisons small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from peml.evaluation import TaskPredictions
from peml.evaluation.predictions import KeptTask, write_predictions
from peml.records.study import StudyRecord
from peml.tasks import TaskType
from tests.e2e.toy import METHODS, Row, toy_config
from tests.records.made_up import results_of

_NOTHING: Row = {"tasks": {}, "model": {}}
ADAPTER: Row = {"name": "mtl-lora", "r": 4, "alpha": 8, "learning_rate": 0.01}
WILD: Row = {"name": "lora", "lora": {"r": 5, "alpha": 8, "learning_rate": 1e6}}
"""Diverges in its first steps, where `training.explode_at` is small."""


def comparison_file(
    folder: Path, path: Path, methods: dict[str, Row] | None = None, **top: Any
) -> Path:
    """Writes the config of a comparison of toys."""
    run = yaml.safe_load(toy_config(folder, method="lora").read_text(encoding="utf-8"))
    del run["method"]
    run["training"] |= {"epochs": 1, "explode_at": 100.0}
    config = {
        "run": run,
        "methods": methods or {"lora": METHODS["lora"], "mtl-lora": ADAPTER},
        "seeds": [0, 1],
        "tuning": None,
        **top,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def finish(
    cell: Path,
    tasks: dict[str, tuple[list[Any], list[Any]]],
    values: dict[str, float],
    *,
    majority: float = 0.5,
    seconds: dict[str, float] | None = None,
    plan: dict[str, Any] | None = None,
) -> None:
    """Writes what a finished run leaves behind, as far as a comparison reads it.

    Args:
        cell: The run folder.
        tasks: Right answers and predictions of each task.
        values: The score of each task.
        majority: Mean of the majority baselines.
        seconds: By phase.
        plan: What its ``plan.json`` says beside the tasks.
    """
    cell.mkdir(parents=True, exist_ok=True)
    for name, (gold, predicted) in tasks.items():
        task = KeptTask(
            name=name, version=1, type=TaskType.CLASSIFICATION, metrics=("accuracy",), majority=0
        )
        rows = range(len(gold))
        scores = [[1.0 - p, float(p)] for p in predicted]
        write_predictions(cell, TaskPredictions(task, rows, gold, predicted, scores))
    results = results_of(
        values,
        majority=majority,
        seconds=seconds or {"train": 2.0, "evaluate": 1.0},
        steps={"train": 10},
        peak_memory_bytes=100,
    )
    (cell / "results.json").write_text(json.dumps(results))
    splits = {"train": 50, "development": 5, "reported": 20}
    planned = [
        {"name": name, "type": "classification", "metric": "accuracy", "cut": 0} | splits
        for name in tasks
    ]
    made: dict[str, Any] = {"tasks": planned, "steps": {"train": 9}, "identity": _NOTHING}
    (cell / "plan.json").write_text(json.dumps(made | (plan or {})))
    (cell / "report.md").write_text("")


def grid_study(
    folder: Path, suite: str, label: str, means: dict[float, float | None], seconds: float = 15.0
) -> None:
    """Writes what the study of a learning-rate grid leaves behind; None: the run failed."""
    place = folder / "tuning" / suite / label
    place.mkdir(parents=True)
    trials = [
        {
            "number": number,
            "state": "failed" if mean is None else "finished",
            "objectives": [] if mean is None else [mean],
            "values": {"training.learning_rate_factor": factor},
            "folder": f"trials/{number:04}",
            "reason": "it diverged" if mean is None else "",
        }
        for number, (factor, mean) in enumerate(means.items())
    ]
    study = {
        "name": f"{suite}-{label}",
        "model": "minilm",
        "method": "lora",
        "objectives": [{"name": "mean", "title": "development mean", "direction": "maximize"}],
        "sampler": {"name": "grid"},
        "pruner": {"name": "none"},
        "budget": {},
        "space": {},
        "trials": trials,
        "best": [],
        "importance": {},
        "cost": {"trials": len(trials), "seconds": seconds, "tokens": 0},
    }
    StudyRecord.check("", study).write(place)
