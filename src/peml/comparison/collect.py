"""Computes ``comparison.json`` from run folders: means, deviations, differences, flags."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from peml.analysis.statistics import Interval, PairedTask, paired_difference
from peml.comparison.cells import Cell, cells_of
from peml.comparison.choices import Choice
from peml.comparison.equal import list_equal
from peml.comparison.latency import read_latency
from peml.comparison.matching import ComparedTask, Matching
from peml.comparison.settings import ComparisonConfig
from peml.errors import RunError
from peml.evaluation import (
    common_average,
    gather_groups,
    mean_weights,
    read_predictions,
    weighted_mean,
)
from peml.evaluation.predictions import first_mismatch
from peml.methods.registry import build_method
from peml.records.comparison import (
    CellRecord,
    ComparisonRecord,
    DifferenceRecord,
    GroupRecord,
    GroupScore,
    IntervalRecord,
    MethodRecord,
    RowRecord,
    SuiteRecord,
    TaskRecord,
    TaskScore,
    TuningRecord,
)
from peml.records.plan import Plan
from peml.records.run import Environment
from peml.reporting.cautions import Caution, Kind, list_cautions

_AT_MAJORITY = "at or below the majority baseline"
_TRAINED_ON = "the mean holds scores of rows that were trained on"


def collect(
    config: ComparisonConfig,
    matching: Matching,
    choices: Mapping[tuple[str, str], Choice],
    folder: Path,
) -> ComparisonRecord:
    """All that the report shows, from the finished runs; None for what is missing.

    Raises:
        PemlError: A run's file is damaged, or two runs were scored on different rows.
    """
    chosen = {place: choice.chosen for place, choice in choices.items()}
    cells = cells_of(config, folder, matching.settings, chosen)
    latency = read_latency(folder)
    suites = []
    for name in config.suites:
        rows = []
        for label in config.methods:
            own = [cell for cell in cells if cell.place == (name, label)]
            measured = latency.get(name, {}).get(label)
            rows.append(_row(own, matching.tasks[name], choices[name, label], measured, folder))
        suites.append(_suite(name, matching.tasks[name], rows, config.focus, folder))
    started = [one for cell in cells if (one := Environment.find(cell.folder)) is not None]
    environment = next(iter(started), Environment())
    tuning = config.tuning and TuningRecord.model_validate(config.tuning.model_dump(mode="json"))
    return ComparisonRecord(
        name=folder.resolve().name,
        model=config.run.model.name,
        device=environment.device,
        versions=environment.versions,
        commit=environment.commit,
        seeds=list(config.seeds),
        focus=config.focus,
        match=config.match,
        budget=matching.budget,
        tolerance=matching.tolerance,
        equal=list_equal(config, matching, suites, [one.versions for one in started]),
        tuning=tuning,
        methods=[_method(label, matching) for label in config.methods],
        suites=suites,
    )


def _method(label: str, matching: Matching) -> MethodRecord:
    sizes = {suite: sized[label] for suite, sized in matching.suites.items()}
    first = next(iter(sizes.values()))
    same = len({sized.size for sized in sizes.values()}) == 1
    text = first.size if same else "; ".join(f"{s}: {sized.size}" for s, sized in sizes.items())
    built = build_method(first.method)
    return MethodRecord(
        label=label,
        method=first.method.name,
        size=text,
        merging=built.merging.how,
        reason=built.merging.reason,
        needs_task_id=built.needs_task_id,
        parameters=first.parameters,
        off_budget=first.off_budget,
    )


def _row(
    cells: Sequence[Cell],
    tasks: Sequence[ComparedTask],
    choice: Choice,
    latency: float | None,
    folder: Path,
) -> RowRecord:
    cautions = _cautions(cells)
    found = [_cell(cell, tasks, folder) for cell in cells]
    averaged = [cell for cell in found if cell.mean is not None]
    means = [cell.mean for cell in averaged]
    memory = [cell.peak_memory_bytes for cell in averaged if cell.peak_memory_bytes is not None]
    parameters = _mean([cell.trainable_parameters for cell in averaged])
    return RowRecord(
        label=cells[0].label,
        cells=found,
        tasks={task.name: _task(task, averaged, cautions) for task in tasks},
        groups={
            group: GroupScore(**_spread([_group_mean(own, cell.tasks) for cell in averaged]))
            for group, own in _groups(tasks).items()
        },
        **_spread(means),
        seconds={
            "tuning": choice.seconds,
            **{
                phase: _mean([cell.seconds[phase] for cell in averaged])
                for phase in ("search", "train")
            },
        },
        peak_memory_bytes=max(memory, default=None),
        trainable_parameters=None if parameters is None else round(parameters),
        latency=latency,
        factor=choice.factor,
        grid=list(choice.grid),
        trials=choice.trials,
        tuned=dict(choice.values),
        flags=_row_flags(found, cautions),
        notes=[caution.text for caution in cautions if caution.kind is Kind.SKIPPED],
    )


def _cautions(cells: Sequence[Cell]) -> list[Caution]:
    """The cautions on the data of a row's finished cells, without duplicates."""
    plans = [Plan.read(cell.folder) for cell in cells if cell.is_finished]
    return list(dict.fromkeys(caution for plan in plans for caution in list_cautions(plan)))


def _groups(tasks: Sequence[ComparedTask]) -> dict[str, list[ComparedTask]]:
    by_name = {task.name: task for task in tasks}
    found = gather_groups({name: task.group for name, task in by_name.items()})
    return {group: [by_name[name] for name in names] for group, names in found.items()}


def _group_mean(tasks: Sequence[ComparedTask], values: Mapping[str, float | None]) -> float:
    return weighted_mean([values[task.name] or 0.0 for task in tasks], _weights(tasks))


def _weights(tasks: Sequence[ComparedTask]) -> Any:
    averages = [task.average for task in tasks]
    return mean_weights(averages, [task.rows for task in tasks])


def _majority_mean(tasks: Sequence[ComparedTask]) -> float:
    return _group_mean(tasks, {task.name: task.majority for task in tasks})


def _cell(cell: Cell, tasks: Sequence[ComparedTask], folder: Path) -> CellRecord:
    place = {"seed": cell.seed, "folder": cell.folder.relative_to(folder).as_posix()}
    results = cell.results()
    if results is None:
        reason = cell.failure()
        if reason is None:
            return CellRecord(**place, status="missing")
        return CellRecord(**place, status="failed", reason=reason, flags=[f"failed: {reason}"])
    values = {task.name: results.tasks[task.name].value for task in tasks}
    flags = [f"{name} is not a number" for name, value in values.items() if not isfinite(value)]
    if results.mean <= results.majority_mean:  # False if the mean is not a number
        flags.append(_AT_MAJORITY)
    cautions = list_cautions(Plan.read(cell.folder))
    flags += [caution.text for caution in cautions if caution.kind is Kind.INFLATED]
    cost, seconds = results.cost, results.cost.seconds
    return CellRecord(
        **place,
        status="finished",
        flags=flags,
        mean=results.mean,
        tasks=values,
        steps=sum(cost.steps.values()),
        precision=results.precision and results.precision.compute,
        seconds={
            # Discretising is part of a search's cost.
            "search": seconds.get("search", 0.0) + seconds.get("discretise", 0.0),
            "train": seconds.get("train", 0.0),
            "evaluate": seconds.get("evaluate", 0.0),
        },
        peak_memory_bytes=cost.peak_memory_bytes,
        trainable_parameters=cost.total_trainable_parameters,
    )


def _task(
    task: ComparedTask, cells: Sequence[CellRecord], cautions: Sequence[Caution]
) -> TaskScore:
    values = {cell.seed: cell.tasks[task.name] for cell in cells}
    at_majority = [
        seed for seed, value in values.items() if value is not None and value <= task.majority
    ]
    flags = [f"{_AT_MAJORITY}: {_seeds(at_majority)}"] if at_majority else []
    own = [caution for caution in cautions if caution.task == task.name]
    flags += [caution.text for caution in own if caution.kind is Kind.INFLATED]
    return TaskScore(
        **_spread(list(values.values())),
        seeds=len(values),
        flags=flags,
        notes=[c.text for c in own if c.kind in (Kind.CHOICE, Kind.CUT, Kind.DROPPED)],
    )


def _row_flags(cells: Sequence[CellRecord], cautions: Sequence[Caution]) -> list[str]:
    groups = {
        "failed": [cell.seed for cell in cells if cell.status == "failed"],
        "missing": [cell.seed for cell in cells if cell.status == "missing"],
        "not a number": [
            cell.seed for cell in cells if cell.status == "finished" and cell.mean is None
        ],
    }
    flags = [
        f"{len(seeds)} of {len(cells)} cells {what}, left out of the means: {_seeds(seeds)}"
        for what, seeds in groups.items()
        if seeds
    ]
    low = [cell.seed for cell in cells if _AT_MAJORITY in cell.flags]
    flags += [f"{_AT_MAJORITY}: {_seeds(low)}"] if low else []
    inflated = {caution.task: None for caution in cautions if caution.kind is Kind.INFLATED}
    return flags + ([f"{_TRAINED_ON}: {', '.join(inflated)}"] if inflated else [])


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _suite(
    name: str,
    tasks: Sequence[ComparedTask],
    rows: Sequence[RowRecord],
    focus: str | None,
    folder: Path,
) -> SuiteRecord:
    baselines = [row for row in rows if row.label != focus and row.mean is not None]
    best = max(baselines, key=lambda row: row.mean or 0.0, default=None)
    return SuiteRecord(
        name=name,
        tasks=[
            TaskRecord(**task.model_dump(include=set(TaskRecord.model_fields))) for task in tasks
        ],
        average=common_average(task.average for task in tasks),
        groups={
            group: GroupRecord(tasks=len(own), majority_mean=_majority_mean(own))
            for group, own in _groups(tasks).items()
        },
        majority_mean=_majority_mean(tasks),
        best_baseline=best and best.label,
        rows=[
            row if best is None or row is best else _compared(row, best, tasks, folder)
            for row in rows
        ],
    )


def _compared(
    row: RowRecord, best: RowRecord, tasks: Sequence[ComparedTask], folder: Path
) -> RowRecord:
    """The row with its difference over the seeds that both have; a note if these are not all."""
    if not row.finished:
        return row
    seeds = sorted(row.finished_seeds & best.finished_seeds)
    notes = list(row.notes)
    if not seeds:
        notes.append(f"no difference to {best.label}: no seed finished in both")
    elif len(seeds) < max(row.finished, best.finished):
        notes.append(f"its difference to {best.label} is over {_seeds(seeds)}, finished in both")
    difference = _difference(row, best, seeds, tasks, folder) if seeds else None
    return row.model_copy(update={"difference": difference, "notes": notes})


def _difference(
    first: RowRecord,
    second: RowRecord,
    seeds: Sequence[int],
    tasks: Sequence[ComparedTask],
    folder: Path,
) -> DifferenceRecord:
    runs = [{cell.seed: folder / cell.folder for cell in row.cells} for row in (first, second)]
    paired = {}
    for task in tasks:
        sides = [[read_predictions(run[seed], task.name) for seed in seeds] for run in runs]
        start = sides[0][0]
        for kept in (*sides[0], *sides[1]):
            if mismatch := first_mismatch(start, kept):
                raise RunError(
                    f"{task.name} was scored on different rows in {first.label} and "
                    f"{second.label}: {mismatch}",
                    action="the data changed meanwhile; start the comparison in a new folder",
                )
        said = [[kept.compared(task.metric) for kept in side] for side in sides]
        paired[task.name] = PairedTask(task.metric, start.gold, said[0], said[1])
    found = paired_difference(paired, _weights(tasks))
    return DifferenceRecord(
        **_bounds(found.mean),
        tasks={name: IntervalRecord(**_bounds(task)) for name, task in found.tasks.items()},
    )


def _bounds(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) over seeds; no deviation for fewer than two."""
    numbers = [value for value in values if value is not None]
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": _mean(numbers), "deviation": deviation}
