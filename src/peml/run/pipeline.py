"""`peml fit`: one config, one run folder, all phases; can be killed and called again."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from peml.analysis.scores import mean_interval
from peml.analysis.statistics import Interval
from peml.config.model import RunConfig
from peml.data import TaskBatch
from peml.distributed import ALONE, join, noticing_lost_peers
from peml.evaluation import common_average, gather_groups, mean_weights, weighted_mean
from peml.export import save_model
from peml.methods.attached import AttachedModel
from peml.records.plan import Identity, Plan, Start
from peml.records.run import Agreement, Cost, GroupMeans, Results, TaskResult
from peml.reporting.run.card import write_card
from peml.reporting.run.report import write_report
from peml.run.announcement import print_plan
from peml.run.evaluation import evaluate_run
from peml.run.folder import RunFolder
from peml.run.identity import check_finished, identify_run
from peml.run.listener import OnEvaluation, never_stops
from peml.run.preparation import Prepared, prepare
from peml.run.probes import probe_batches
from peml.run.start import start_from
from peml.run.together import check_same_start, prepare_together, with_world
from peml.run.trackers import check_trackers
from peml.run.training import TrainingSession, attach
from peml.run.weights import check_sharding, dequantized, sharded_answers, whole_model
from peml.tasks import Task
from peml.training.optimizer import build_optimizer


@dataclass(frozen=True)
class Run:
    """A finished run.

    ``model/``, ``report.html`` and the rest are in `folder`.
    """

    folder: Path
    results: Results


def plan(config: RunConfig) -> Plan:
    """The plan of a run, without training or writing a run folder (``--dry-run``)."""
    world = join()
    check_trackers(config.tracking)
    prepared = prepare(with_world(config, world))
    check_sharding(prepared)
    # One batch shows whether the model can be run; what it would start with isn't needed.
    model = attach(prepared, torch.device("cpu"), None, world=world, calibration_batches=1)
    # Refuses learning rates of groups that don't exist.
    build_optimizer([*model.groups(), *prepared.balancing.groups()], config.training)
    groups = model.trainable_parameters()
    identity = identify_run(prepared)
    start = _start(prepared, model, identity)
    if not groups:
        prepared = prepared.without_training()
    return prepared.plan(groups, identity, start)


def _start(prepared: Prepared, model: AttachedModel, identity: Identity) -> Start | None:
    source = prepared.config.init_from
    return None if source is None else start_from(Path(source), model, prepared, identity)


def fit(
    config: RunConfig,
    output: Path,
    console: Console | None = None,
    *,
    on_evaluation: OnEvaluation = never_stops,
    wait: float = 0.0,
    page: bool = True,
) -> Run:
    """Runs all phases that the run folder doesn't have yet.

    If a launcher has started several processes, each calls this; the first one writes.

    Args:
        config: The config of the run.
        output: The run folder; an existing one of the same config is continued.
        console: Where progress is shown; default: nowhere.
        on_evaluation: Called after every development evaluation; True stops the run there. An
            evaluation whose checkpoint was lost in a kill is repeated by the next session.
        wait: Seconds to wait for another process that is at work in the folder.
        page: Draw ``report.html``; if False, a later call can draw it.

    Raises:
        PemlError: Something is wrong with config, data, model or folder, or training diverged.
        RunStopped: `on_evaluation` returned True; the next call continues from there.
    """
    world = join()
    console = console if console and world.is_first else Console(quiet=True)
    folder = RunFolder(output)
    with folder.locked(wait) if world.is_first else nullcontext(), noticing_lost_peers():
        check_same_start(config, output, world)
        if world.from_first(lambda: folder.holds(config) and folder.has_results):
            world.from_first(lambda: check_finished(Plan.read(output).identity, config, output))
        results = world.from_first(lambda: Results.find(output))
        unsaved = world.from_first(lambda: folder.lacks_model(config))
        drawn = world.from_first(lambda: folder.is_finished and (folder.has_page or not page))
        if results is not None and drawn and not unsaved:
            console.print(f"{output} is finished: nothing to do", markup=False)
            return Run(output, results)
        if results is None or unsaved:
            world.from_first(lambda: check_trackers(config.tracking))
            prepared, identity = prepare_together(config, folder, world)
            spent = results.cost.spent() if results else None
            session = TrainingSession(prepared, folder, console, on_evaluation, world, spent)
            is_new = not session.is_resumed
            start = world.from_first(
                lambda: _start(prepared, session.model, identity) if is_new else None
            )
            session.align()
            world.from_first(lambda: folder.create(config))  # not before: it might not work
            tasks = _run_phases(session, folder, identity, start, results)
            probes = probe_batches(prepared) if config.export else []
            before = sharded_answers(session.model, probes)
            results = world.from_first(lambda: _conclude(session, folder, tasks, probes, before))
        world.from_first(lambda: write_card(output))
        # Last: it marks the run as finished.
        world.from_first(lambda: write_report(output, page=page))
    return Run(output, results)


def _run_phases(
    session: TrainingSession,
    folder: RunFolder,
    identity: Identity,
    start: Start | None,
    scored: Results | None,
) -> dict[str, TaskResult]:
    """Trains and scores what is not trained and scored yet; `scored` are results that are there."""
    prepared, world = session.prepared, session.world
    planned = prepared.plan(session.model.trainable_parameters(), identity, start)
    is_new = world.from_first(lambda: Plan.find(folder.path)) is None
    world.from_first(lambda: folder.check_plan(planned))
    print_plan(planned, session.console, done=None if is_new else session.steps_done)
    with session.trackers() as trackers:
        model = session.run(trackers)
        if scored is not None:
            return scored.tasks
        with session.accelerator.autocast():  # scores are of the arithmetic that was trained with
            tasks = evaluate_run(prepared, model, folder, session.cost)
        scores = {name: task.value for name, task in tasks.items()}
        trackers.log("reported", scores, prepared.steps.total)
    return tasks


def _conclude(
    session: TrainingSession,
    folder: RunFolder,
    tasks: dict[str, TaskResult],
    probes: Sequence[TaskBatch],
    before: Sequence[Tensor],
) -> Results:
    """Saves the model and the results, in one process.

    `before` are the scores of the probes by all processes together, if they share weights.
    """
    prepared, model = session.prepared, session.model
    model.base.world = ALONE
    counts = model.trainable_parameters()
    agreement = None
    if prepared.config.export:
        with session.cost.phase("export"):
            evaluation = prepared.config.evaluation.model_dump(mode="json")
            method = prepared.config.method
            if before:
                model = whole_model(session, probes, before)
            exact = prepared.precision.exported == "float32"
            apart = None
            if prepared.precision.quantization is not None:
                model, apart = dequantized(session, probes)
            agreement = save_model(model, folder.model, method, evaluation, probes, exact=exact)
            if agreement is not None:
                agreement = agreement.model_copy(update={"from_quantized": apart})
    searched = Plan.read(folder.path).trainable_parameters
    cost = Cost(
        **session.cost.spent().model_dump(),
        trainable_parameters=counts,
        total_trainable_parameters=sum(counts.values()),
        trainable_parameters_in_search=sum(searched.values()),
        tuning=prepared.config.tuning_cost,
    )
    results = _results(prepared, tasks, agreement, cost)
    results.write(folder.path)
    return results


def _results(
    prepared: Prepared, tasks: dict[str, TaskResult], agreement: Agreement | None, cost: Cost
) -> Results:
    config, method = prepared.config, prepared.method
    definitions = {task.name: task for task in prepared.tasks if task.name in tasks}
    groups = gather_groups({name: task.group for name, task in definitions.items()})
    return Results(
        method=config.method.name,
        merging=method.merging.how,
        needs_task_id=method.needs_task_id,
        model=config.model.name,
        precision=prepared.precision,
        seed=config.seed,
        tasks=tasks,
        average=common_average(task.average for task in definitions.values()),
        groups={
            group: GroupMeans(tasks=names, **_means(tasks, [definitions[name] for name in names]))
            for group, names in groups.items()
        },
        export=agreement,
        cost=cost,
        **_means(tasks, list(definitions.values())),
    )


def _means(results: dict[str, TaskResult], tasks: Sequence[Task]) -> dict[str, Any]:
    found = [results[task.name] for task in tasks]
    weights = mean_weights([task.average for task in tasks], [each.rows for each in found])
    intervals = [Interval(each.value, each.low, each.high) for each in found]
    interval = mean_interval(intervals, weights)
    return {
        "mean": weighted_mean([each.value for each in found], weights),
        "low": interval.low,
        "high": interval.high,
        "majority_mean": weighted_mean([each.majority for each in found], weights),
        "ablation_means": {
            part: weighted_mean([each.without[part] for each in found], weights)
            for part in found[0].without
        },
    }
