"""`peml fit`: one config, one run folder, all phases; safe to kill and to call again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from peml.analysis import Interval, mean_interval
from peml.config import RunConfig
from peml.evaluation import common_average, gather_groups, mean_weights, weighted_mean
from peml.export import save_model
from peml.files import read_json
from peml.reporting import write_report
from peml.run.announcement import print_plan
from peml.run.cost import Cost
from peml.run.evaluation import evaluate_run
from peml.run.folder import RunFolder
from peml.run.identity import identify
from peml.run.listener import OnEvaluation, never_stops
from peml.run.preparation import Prepared, prepare
from peml.run.probes import probe_batches
from peml.run.training import TrainingSession, attach
from peml.tasks import Task
from peml.training import build_optimizer

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
    # Refuses rates of groups that aren't there.
    build_optimizer([*model.groups(), *prepared.balancing.groups()], config.training)
    groups = {g.name: sum(p.numel() for p in g.parameters) for g in model.groups()}
    if not groups:
        prepared = prepared.without_training()
    return {**prepared.plan(groups), "identity": identify(prepared)}


def fit(
    config: RunConfig,
    output: Path,
    console: Console | None = None,
    *,
    on_evaluation: OnEvaluation = never_stops,
    wait: float = 0.0,
) -> Run:
    """Runs all phases that the run folder doesn't have yet.

    Args:
        config: What to do.
        output: The run folder; an existing one of the same config is gone on with.
        console: Where progress is shown; default: nowhere.
        on_evaluation: Told of every development evaluation; True stops the run there. An
            evaluation whose checkpoint was lost to a kill is told again by the next session.
        wait: Seconds to wait for another process that is at work in the folder.

    Raises:
        PemlError: Something is wrong with config, data, model or folder, or training diverged.
        RunStopped: `on_evaluation` said so; the next call goes on from there.
    """
    console = console or Console(quiet=True)
    folder = RunFolder(output)
    with folder.locked(wait):
        if folder.holds(config) and folder.is_finished:
            console.print(f"{output} is finished: nothing to do", markup=False)
            return Run(output, folder.read(_RESULTS))
        results = folder.read(_RESULTS)
        if results is None:
            prepared = prepare(config)
            identity = identify(prepared)
            folder.check_identity(identity)  # before anything of the folder is loaded
            session = TrainingSession(prepared, folder, console, on_evaluation)
            folder.create(config)  # what can't work leaves no folder behind
            results = _run_phases(session, folder, identity)
        write_report(output)
    return Run(output, results)


def _run_phases(
    session: TrainingSession, folder: RunFolder, identity: dict[str, Any]
) -> dict[str, Any]:
    prepared = session.prepared
    planned = {**prepared.plan(session.trainable_parameters()), "identity": identity}
    is_new = folder.read("plan.json") is None
    folder.check_plan(planned)
    print_plan(planned, session.console, done=None if is_new else session.steps_done)
    model = session.run()
    counts = session.trainable_parameters()
    tasks = evaluate_run(prepared, model, folder, session.cost)
    agreement = None
    if prepared.config.export:
        with session.cost.phase("export"):
            evaluation = prepared.config.evaluation.model_dump(mode="json")
            probes = probe_batches(prepared)
            method = prepared.config.method
            agreement = save_model(model, folder.model, method, evaluation, probes)
    searched = read_json(folder.path / "plan.json")["trainable_parameters"]
    results = _results(prepared, tasks, session.cost, counts, searched)
    results["export"] = None if agreement is None else agreement.as_dict()
    folder.write(_RESULTS, results)
    return results


def _results(
    prepared: Prepared,
    tasks: dict[str, Any],
    cost: Cost,
    counts: dict[str, int],
    searched: dict[str, int],
) -> dict[str, Any]:
    """``results.json``; parameters are counted as they are trained to the end.

    A search trains more of them, the supernet's, which are counted apart.
    """
    definitions = {task.name: task for task in prepared.tasks if task.name in tasks}
    groups = gather_groups({name: task.group for name, task in definitions.items()})
    average = common_average(task.average for task in definitions.values())
    tuning = prepared.config.tuning_cost
    return {
        "format": 1,
        "method": prepared.config.method.name,
        "merging": prepared.method.merging.how,
        "needs_task_id": prepared.method.needs_task_id,
        "model": prepared.config.model.name,
        "seed": prepared.config.seed,
        "tasks": tasks,
        "average": average,
        **_means(tasks, list(definitions.values())),
        "groups": {
            group: _means(tasks, [definitions[name] for name in names]) | {"tasks": names}
            for group, names in groups.items()
        },
        "cost": {
            **cost.as_dict(),
            "trainable_parameters": counts,
            "total_trainable_parameters": sum(counts.values()),
            "trainable_parameters_in_search": sum(searched.values()),
            "tuning": None if tuning is None else tuning.model_dump(mode="json"),
        },
    }


def _means(results: dict[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Means of the results of some tasks."""
    found = [results[task.name] for task in tasks]
    weights = mean_weights([task.average for task in tasks], [each["rows"] for each in found])

    def mean(key: str) -> float:
        return weighted_mean([each[key] for each in found], weights)

    ablations = [key for key in found[0] if key.endswith("_off")]
    intervals = [Interval(each["value"], each["low"], each["high"]) for each in found]
    interval = mean_interval(intervals, weights)
    return {
        "mean": mean("value"),
        "low": interval.low,
        "high": interval.high,
        "majority_mean": mean("majority"),
        "ablation_means": {key: mean(key) for key in ablations},
    }
