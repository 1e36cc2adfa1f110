"""`peml fit`: one config, one run folder, all phases; safe to kill and to call again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from peml.config import RunConfig
from peml.export import save_model
from peml.files import read_json
from peml.reporting import write_report
from peml.run.cost import Cost
from peml.run.evaluation import evaluate_run
from peml.run.folder import RunFolder
from peml.run.preparation import Prepared, prepare
from peml.run.training import TrainingSession, attach

__all__ = ["Run", "fit", "plan"]

_RESULTS = "results.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run folder; ``model/``, ``report.html`` and the rest are in it.
        results: What evaluation found, see ``results.json``.
    """

    folder: Path
    results: dict[str, Any]


def plan(config: RunConfig) -> dict[str, Any]:
    """What a run would do, without training or writing a run folder (``--dry-run``)."""
    prepared = prepare(config)
    model = attach(prepared, torch.device("cpu"), None)
    groups = {g.name: sum(p.numel() for p in g.parameters) for g in model.groups()}
    return prepared.plan(groups)


def fit(config: RunConfig, output: Path, console: Console | None = None) -> Run:
    """Runs all phases that the run folder doesn't have yet.

    Args:
        config: What to do.
        output: The run folder; an existing one of the same config is gone on with.
        console: Where progress is shown; default: nowhere.

    Raises:
        PemlError: Something is wrong with config, data, model or folder, or training diverged.
    """
    console = console or Console(quiet=True)
    folder = RunFolder(output)
    if not (output / "config.yaml").is_file():
        prepared = prepare(config)  # what can't work leaves no folder behind
        folder.create(config)
    else:
        folder.create(config)
        finished = folder.read(_RESULTS)
        if finished is not None and (output / "report.html").is_file():
            console.print(f"{output} is finished: nothing to do")
            return Run(output, finished)
        prepared = prepare(config)
    with folder.locked():
        results = _run_phases(prepared, folder, console)
        write_report(output)
    return Run(output, results)


def _run_phases(prepared: Prepared, folder: RunFolder, console: Console) -> dict[str, Any]:
    results = folder.read(_RESULTS)
    if results is not None:
        return dict(results)
    session = TrainingSession(prepared, folder, console)
    counts = session.trainable_parameters()
    if folder.read("plan.json") is None:
        folder.write("plan.json", prepared.plan(counts))
    model = session.run()
    tasks = evaluate_run(prepared, model, folder, session.cost)
    with session.cost.phase("export"):
        save_model(model, folder.model)
    results = _results(prepared, tasks, session.cost, read_json(folder.path / "plan.json"))
    folder.write(_RESULTS, results)
    return results


def _results(
    prepared: Prepared, tasks: dict[str, Any], cost: Cost, planned: dict[str, Any]
) -> dict[str, Any]:
    def mean(key: str) -> float:
        return sum(task[key] for task in tasks.values()) / len(tasks)

    ablations = [key for key in next(iter(tasks.values())) if key.endswith("_off")]
    counts = planned["trainable_parameters"]
    return {
        "format": 1,
        "method": prepared.config.method.name,
        "model": prepared.config.model.name,
        "seed": prepared.config.seed,
        "tasks": tasks,
        "mean": mean("value"),
        "majority_mean": mean("majority"),
        "ablation_means": {key: mean(key) for key in ablations},
        "cost": {
            **cost.as_dict(),
            "trainable_parameters": counts,
            "total_trainable_parameters": sum(counts.values()),
        },
    }
