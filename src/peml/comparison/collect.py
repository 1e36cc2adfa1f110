"""From run folders to ``comparison.json``: means, deviations, differences, flags."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peml.analysis import PairedTask, paired_difference
from peml.comparison.cells import Cell, cells_of
from peml.comparison.choices import Choice
from peml.comparison.equal import list_equal
from peml.comparison.latency import read_latency
from peml.comparison.matching import TOLERANCE, ComparedTask, Matching, Sized
from peml.comparison.settings import ComparisonConfig
from peml.errors import RunError
from peml.evaluation import (
    common_average,
    first_mismatch,
    gather_groups,
    mean_weights,
    read_predictions,
    weighted_mean,
)
from peml.methods import build_method
from peml.records import Environment, Plan
from peml.reporting import Caution, Kind, list_cautions

_AT_MAJORITY = "at or below the majority baseline"
_TRAINED_ON = "the mean holds scores of rows that were trained on"

Content = dict[str, Any]


def collect(
    config: ComparisonConfig,
    matching: Matching,
    choices: Mapping[tuple[str, str], Choice],
    folder: Path,
) -> Content:
    """``comparison.json``, from what is finished; what isn't there is null.

    Args:
        config: What is compared.
        matching: Tasks and sizes.
        choices: What tuning chose, by suite and label.
        folder: The comparison's folder.

    Raises:
        PemlError: A run's file is damaged, or two runs were scored on different rows.
    """
    chosen = {place: choice.chosen for place, choice in choices.items()}
    cells = cells_of(config, folder, matching.settings, chosen)
    latency = read_latency(folder)
    suites = []
    for name in config.suites:
        rows = {}
        for label in config.methods:
            own = [cell for cell in cells if cell.place == (name, label)]
            row = _row(own, matching.tasks[name], choices[name, label], folder)
            rows[label] = {**row, "latency": latency.get(name, {}).get(label)}
        suites.append(_suite(name, matching.tasks[name], rows, config, folder))
    return {
        "format": 1,
        "name": folder.resolve().name,
        "model": config.run.model.name,
        **_environment(cells),
        "seeds": list(config.seeds),
        "focus": config.focus,
        "match": config.match,
        "budget": matching.budget,
        "tolerance": TOLERANCE,
        "equal": list_equal(config, matching, suites),
        "tuning": None if config.tuning is None else config.tuning.model_dump(mode="json"),
        "methods": [_method(label, matching) for label in config.methods],
        "suites": suites,
    }


def _environment(cells: Sequence[Cell]) -> Content:
    """Device, versions and commit of the first cell that was started."""
    for cell in cells:
        found = Environment.find(cell.folder)
        if found is not None:
            return found.model_dump(include={"device", "versions", "commit"})
    return {"device": "", "versions": {}, "commit": None}


def _method(label: str, matching: Matching) -> Content:
    """One method; where its size differs between suites, each is named."""
    sizes: dict[str, Sized] = {suite: sized[label] for suite, sized in matching.suites.items()}
    first = next(iter(sizes.values()))
    same = len({sized.size for sized in sizes.values()}) == 1
    text = first.size if same else "; ".join(f"{s}: {sized.size}" for s, sized in sizes.items())
    built = build_method(first.method)
    return {
        "label": label,
        "method": first.method.name,
        "size": text,
        "merging": built.merging.how,
        "reason": built.merging.reason,
        "needs_task_id": built.needs_task_id,
        "parameters": first.parameters,
        "off_budget": first.off_budget,
    }


def _row(
    cells: Sequence[Cell], tasks: Sequence[ComparedTask], choice: Choice, folder: Path
) -> Content:
    """A method on a suite."""
    cautions = _cautions(cells)
    found = [_cell(cell, tasks, folder) for cell in cells]
    averaged = [cell for cell in found if cell["mean"] is not None]
    means = [cell["mean"] for cell in averaged]
    return {
        "label": cells[0].label,
        "cells": found,
        "tasks": {task.name: _task(task, averaged, cautions) for task in tasks},
        "groups": {
            group: _spread([_group_mean(own, cell["tasks"]) for cell in averaged])
            for group, own in _groups(tasks).items()
        },
        "mean": _mean(means),
        "deviation": _deviation(means),
        "seconds": _seconds(averaged, choice),
        "peak_memory_bytes": max((c["peak_memory_bytes"] for c in averaged), default=None),
        "trainable_parameters": _whole(_mean([c["trainable_parameters"] for c in averaged])),
        "factor": choice.factor,
        "grid": [point.model_dump() for point in choice.grid],
        "trials": choice.trials,
        "tuned": dict(choice.values),
        "flags": _row_flags(found, cautions),
        "notes": [c.text for c in cautions if c.kind is Kind.SKIPPED],
    }


def _cautions(cells: Sequence[Cell]) -> list[Caution]:
    """What to know of the data behind a row's finished cells, each thing once."""
    plans = [Plan.read(cell.folder) for cell in cells if cell.is_finished]
    return list(dict.fromkeys(caution for plan in plans for caution in list_cautions(plan)))


def _groups(tasks: Sequence[ComparedTask]) -> dict[str, list[ComparedTask]]:
    """The tasks of each group."""
    by_name = {task.name: task for task in tasks}
    found = gather_groups({name: task.group for name, task in by_name.items()})
    return {group: [by_name[name] for name in names] for group, names in found.items()}


def _group_mean(tasks: Sequence[ComparedTask], values: Mapping[str, float]) -> float:
    return weighted_mean([values[task.name] for task in tasks], _weights(tasks))


def _weights(tasks: Sequence[ComparedTask]) -> Any:
    averages = [task.average for task in tasks]
    return mean_weights(averages, [task.rows for task in tasks])


def _majority_mean(tasks: Sequence[ComparedTask]) -> float:
    return _group_mean(tasks, {task.name: task.majority for task in tasks})


def _cell(cell: Cell, tasks: Sequence[ComparedTask], folder: Path) -> Content:
    """One run."""
    content: Content = {
        "seed": cell.seed,
        "folder": _relative(cell.folder, folder),
        "status": "missing",
        "reason": "",
        "flags": [],
        "mean": None,
        "tasks": {},
        "steps": None,
        "seconds": {},
        "peak_memory_bytes": None,
        "trainable_parameters": None,
    }
    results = cell.results()
    if results is None:
        reason = cell.failure()
        if reason is None:
            return content
        return {**content, "status": "failed", "reason": reason, "flags": [f"failed: {reason}"]}
    cost = results.cost
    values = {task.name: _finite(results.tasks[task.name].value) for task in tasks}
    mean = _finite(results.mean)
    flags = [f"{name} is not a number" for name, value in values.items() if value is None]
    majority = results.majority_mean
    if mean is not None and majority is not None and mean <= majority:
        flags.append(_AT_MAJORITY)
    cautions = list_cautions(Plan.read(cell.folder))
    flags += [caution.text for caution in cautions if caution.kind is Kind.INFLATED]
    return {
        **content,
        "status": "finished",
        "flags": flags,
        "mean": mean,
        "tasks": values,
        "steps": sum(cost.steps.values()),
        "seconds": {
            # Discretising belongs to what a search costs.
            "search": cost.seconds.get("search", 0.0) + cost.seconds.get("discretise", 0.0),
            "train": cost.seconds.get("train", 0.0),
            "evaluate": cost.seconds.get("evaluate", 0.0),
        },
        "peak_memory_bytes": cost.peak_memory_bytes,
        "trainable_parameters": cost.total_trainable_parameters,
    }


def _task(task: ComparedTask, cells: Sequence[Content], cautions: Sequence[Caution]) -> Content:
    """A method on a task, over the seeds that count."""
    values = {cell["seed"]: cell["tasks"][task.name] for cell in cells}
    at_majority = [seed for seed, value in values.items() if value <= task.majority]
    flags = [f"{_AT_MAJORITY}: {_seeds(at_majority)}"] if at_majority else []
    own = [caution for caution in cautions if caution.task == task.name]
    flags += [caution.text for caution in own if caution.kind is Kind.INFLATED]
    numbers = list(values.values())
    return {
        "mean": _mean(numbers),
        "deviation": _deviation(numbers),
        "seeds": len(numbers),
        "flags": flags,
        "notes": [c.text for c in own if c.kind in (Kind.CHOICE, Kind.CUT, Kind.DROPPED)],
    }


def _row_flags(cells: Sequence[Content], cautions: Sequence[Caution]) -> list[str]:
    """What has to be said beside the row's mean."""
    groups = {
        "failed": [c["seed"] for c in cells if c["status"] == "failed"],
        "missing": [c["seed"] for c in cells if c["status"] == "missing"],
        "not a number": [
            c["seed"] for c in cells if c["status"] == "finished" and c["mean"] is None
        ],
    }
    flags = [
        f"{len(seeds)} of {len(cells)} cells {what}, left out of the means: {_seeds(seeds)}"
        for what, seeds in groups.items()
        if seeds
    ]
    low = [cell["seed"] for cell in cells if _AT_MAJORITY in cell["flags"]]
    flags += [f"{_AT_MAJORITY}: {_seeds(low)}"] if low else []
    inflated = {caution.task: None for caution in cautions if caution.kind is Kind.INFLATED}
    return flags + ([f"{_TRAINED_ON}: {', '.join(inflated)}"] if inflated else [])


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _seconds(cells: Sequence[Content], choice: Choice) -> Content:
    """Means over the cells, and the sum over the runs that chose."""
    return {
        "tuning": choice.seconds,
        **{phase: _mean([c["seconds"][phase] for c in cells]) for phase in ("search", "train")},
    }


def _suite(
    name: str,
    tasks: Sequence[ComparedTask],
    rows: dict[str, Content],
    config: ComparisonConfig,
    folder: Path,
) -> Content:
    """All methods on a suite, each with its difference to the best baseline."""
    baselines = {
        label: row["mean"]
        for label, row in rows.items()
        if label != config.focus and row["mean"] is not None
    }
    best = max(baselines, key=lambda label: baselines[label]) if baselines else None
    for label, row in rows.items():
        row["difference"] = (
            None if best in (None, label) else _difference(row, rows[str(best)], tasks, folder)
        )
    return {
        "name": name,
        "tasks": [
            task.model_dump(include={"name", "metric", "rows", "majority", "majority_of"})
            for task in tasks
        ],
        "average": common_average(task.average for task in tasks),
        "groups": {
            group: {"tasks": len(own), "majority_mean": _majority_mean(own)}
            for group, own in _groups(tasks).items()
        },
        "majority_mean": _majority_mean(tasks),
        "best_baseline": best,
        "rows": list(rows.values()),
    }


def _difference(
    first: Content, second: Content, tasks: Sequence[ComparedTask], folder: Path
) -> Content | None:
    """Paired over the seeds that both have; None where there is none."""
    runs = [
        {cell["seed"]: folder / cell["folder"] for cell in row["cells"] if cell["mean"] is not None}
        for row in (first, second)
    ]
    seeds = sorted(runs[0].keys() & runs[1].keys())
    if not seeds:
        return None
    paired = {}
    for task in tasks:
        sides = [[read_predictions(run[seed], task.name) for seed in seeds] for run in runs]
        start = sides[0][0]
        for kept in (*sides[0], *sides[1]):
            if mismatch := first_mismatch(start, kept):
                raise RunError(
                    f"{task.name} was scored on different rows in {first['label']} and "
                    f"{second['label']}: {mismatch}",
                    action="the data changed meanwhile; start the comparison in a new folder",
                )
        said = [[kept.said(task.metric) for kept in side] for side in sides]
        paired[task.name] = PairedTask(task.metric, start.gold, said[0], said[1])
    found = paired_difference(paired, _weights(tasks))
    return {
        **_interval(found.mean),
        "tasks": {name: _interval(interval) for name, interval in found.tasks.items()},
    }


def _interval(interval: Any) -> Content:
    return {name: _finite(getattr(interval, name)) for name in ("value", "low", "high")}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _spread(values: Sequence[float]) -> Content:
    return {"mean": _mean(values), "deviation": _deviation(values)}


def _deviation(values: Sequence[float]) -> float | None:
    """Over seeds, with n - 1; None for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
