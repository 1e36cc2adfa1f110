"""Reads a finished run: its results, its predictions, and the texts of its rows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peml.data import select_tasks
from peml.data.rows import Row
from peml.data.sources import load_source
from peml.errors import CheckpointError, DataError, RunError, nearest
from peml.evaluation import TaskPredictions, read_predictions
from peml.evaluation.predictions import predictions_path
from peml.records.plan import Plan
from peml.records.run import Results
from peml.run.folder import RunFolder
from peml.tasks import SOURCE_ROW, Example, Task, TaskRenderer


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run with its results and predictions."""

    folder: Path
    results: Results
    predictions: dict[str, TaskPredictions]


@dataclass(frozen=True, slots=True)
class RowText:
    """The text of a row.

    `options` are the row's own choices; empty if it has none.
    """

    inputs: dict[str, str]
    options: tuple[str, ...]


def load_finished(folder: Path, task: str | None = None) -> FinishedRun:
    """Reads a finished run, and checks that its predictions give the results it reports.

    Raises:
        RunError: It is no run folder, not finished, or has no such task.
        CheckpointError: A file is missing, damaged, or doesn't give the results.
    """
    if not RunFolder(folder).is_started:
        what = "is no run folder" if folder.is_dir() else "is no folder"
        raise RunError(
            f"{folder} {what}",
            allowed="a folder that `peml fit` has finished, or a cell of `peml compare` "
            "(NAME/cells/SUITE/LABEL-seedN)",
            action="check the path",
        )
    if not (folder / Results.FILE).is_file():
        raise RunError(
            f"{folder} holds a run that is not finished: it has no results.json",
            allowed="a folder that `peml fit` has finished",
            action="run the same `peml fit` command again: it continues where the run stopped",
        )
    results = Results.read(folder)
    if task is not None and task not in results.tasks:
        raise RunError(
            f"{folder} has no task {task!r}.{nearest(task, results.tasks)}",
            allowed=", ".join(results.tasks),
            action="correct --task",
        )
    names = list(results.tasks) if task is None else [task]
    predictions = {name: read_predictions(folder, name) for name in names}
    for kept in predictions.values():
        _check_results(folder, kept, results)
    return FinishedRun(folder, results, predictions)


def differing_rows(first: FinishedRun, second: FinishedRun) -> list[str]:
    """Names of the tasks on which two runs were scored on rows that say other things.

    Numbers and right answers can be the same by chance, as after a sort. Tasks that read other
    columns are left out.
    """
    one, two = (Plan.read(run.folder).identity.tasks for run in (first, second))
    found = []
    for name in first.predictions.keys() & second.predictions.keys() & one.keys() & two.keys():
        split = first.predictions[name].task.split
        same_columns = one[name].definition.get("columns") == two[name].definition.get("columns")
        if same_columns and one[name].rows[split] != two[name].rows[split]:
            found.append(name)
    return sorted(found)


def differing_ways(first: FinishedRun, second: FinishedRun) -> list[str]:
    """Settings besides rows and method that change scores, where two runs differ, as text."""
    one, two = _ways(first), _ways(second)
    shared = (name for name in one if name in two)
    return [f"{name} is {one[name]} and {two[name]}" for name in shared if one[name] != two[name]]


def _ways(run: FinishedRun) -> dict[str, Any]:
    config, precision = RunFolder(run.folder).config(), run.results.precision
    found = {f"tasks.{name}": getattr(config.tasks, name) for name in ("shots", "chat", "bare")}
    scoring = config.evaluation.scoring
    names = ("normalisation", "unconditional", "end")
    found |= {f"evaluation.scoring.{name}": getattr(scoring, name) for name in names}
    found["evaluation.max_new_tokens"] = config.evaluation.max_new_tokens
    if precision is not None:
        found |= {"training.precision": precision.compute, "model.dtype": precision.weights}
        found["model.quantization"] = precision.quantization
    return found


def _check_results(folder: Path, kept: TaskPredictions, results: Results) -> None:
    name = kept.task.name
    said = results.tasks[name]
    found = kept.metrics()
    for metric, value in {**said.all, said.metric: said.value}.items():
        # Equal up to the rounding of another machine.
        if not np.isclose(found.get(metric, math.inf), value, 1e-9, 1e-12, equal_nan=True):
            raise CheckpointError(
                f"{predictions_path(folder, name)} gives {metric} {found.get(metric)}, and "
                f"{folder / 'results.json'} says {value}",
                allowed="both files as the same run wrote them",
                action="restore them from a copy, or train the run again in a new folder",
            )


def read_texts(folder: Path, kept: TaskPredictions, rows: Iterable[int]) -> dict[int, RowText]:
    """The texts of some of the scored rows, from the data source in the run's config.

    Raises:
        PemlError: Config, task or data is missing or has changed since.
    """
    task = _task(kept, select_tasks(RunFolder(folder).config().tasks))
    return {
        row: RowText(
            inputs={name: str(fields[name]) for name in task.columns.inputs},
            options=example.options if task.type.has_own_options else (),
        )
        for row, (fields, example) in read_examples(folder, kept, rows).items()
    }


def read_examples(
    folder: Path, kept: TaskPredictions, rows: Iterable[int], task: Task | None = None
) -> dict[int, tuple[Row, Example]]:
    """Some of the scored rows, as read and as rendered.

    `task` is the one whose template they are rendered with; default: as its file defines it.
    """
    config = RunFolder(folder).config()
    defined = _task(kept, select_tasks(config.tasks))
    train, reported, origin = load_source(defined, config.tasks.source)
    split = reported if kept.task.split == "reported" else train
    sources = split.array(SOURCE_ROW)  # ascending; rows that serve as shots are missing
    scored = split.select(np.flatnonzero(np.isin(sources, kept.rows)))
    identity = Plan.read(folder).identity.tasks[defined.name]
    if scored.checksum()[:32] != identity.rows[kept.task.split]:
        raise DataError(
            f"Task {defined.name!r}: the rows of {origin} have changed since the run was scored",
            allowed="the data the run was scored on",
            action="restore the data",
        )
    renderer = TaskRenderer(task or defined)
    found = {row: split[int(np.searchsorted(sources, row))] for row in rows}
    return {row: (fields, renderer.render(fields, row)) for row, fields in found.items()}


def _task(kept: TaskPredictions, tasks: Iterable[Task]) -> Task:
    for task in tasks:
        if task.name == kept.task.name:
            return task
    raise DataError(
        f"the run's config names no task {kept.task.name!r} any more",
        allowed="the suite and task files the run was started with",
        action="restore them",
    )
