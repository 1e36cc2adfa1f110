"""Two finished runs on the same rows: differences, intervals and p-values."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peml.analysis.significance import (
    Discordant,
    discordant_rows,
    mcnemar_test,
    permuted_differences,
    tail_share,
)
from peml.analysis.statistics import Interval, PairedTask, paired_difference, task_random
from peml.errors import DataError
from peml.evaluation.averages import mean_weights, weighted_mean
from peml.evaluation.predictions import TaskPredictions, first_mismatch

Array = NDArray[np.float64]

_PERMUTE = 1  # gives permutations another random stream than the bootstrap


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two scores and their difference.

    The difference is first minus second, with its paired bootstrap interval over rows. The p-value
    is two-sided: how likely so large a difference would be if the runs were equally good. `test`
    names the test that gave it.
    """

    first: float
    second: float
    difference: Interval
    p_value: float
    test: str


@dataclass(frozen=True, slots=True)
class TaskContrast(Contrast):
    """Two runs on one task.

    `discordant` counts rows that only the first, and only the second has right; None if the metric
    doesn't count right rows.
    """

    metric: str
    rows: int
    discordant: Discordant | None


@dataclass(frozen=True, slots=True)
class RunContrast:
    """Two runs: the mean of their headline metrics, and each task."""

    mean: Contrast
    tasks: dict[str, TaskContrast]


def contrast_runs(
    first: Mapping[str, TaskPredictions],
    second: Mapping[str, TaskPredictions],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> RunContrast:
    """Compares two runs row by row.

    A task whose headline metric counts right rows (accuracy, exact match) is tested by McNemar's
    exact test; others, and the mean over tasks, by a permutation test that swaps predictions at
    random (its smallest possible p-value is 1 / (resamples + 1)). The p-values are not corrected
    for the number of tasks, and cover the randomness of the rows only, not of the seeds.

    Raises:
        DataError: Tasks, their definitions, rows or right answers differ; names the first.
    """
    _check_same(first, second)
    weights = mean_weights(
        [one.task.average for one in first.values()], [len(one.rows) for one in first.values()]
    )
    intervals = paired_difference(
        {
            name: PairedTask(metric, one.gold, [one.compared(metric)], [two.compared(metric)])
            for name, (one, two) in _pairs(first, second)
            for metric in one.task.metrics[:1]
        },
        weights,
        resamples=resamples,
        seed=seed,
    )
    tasks, draws = {}, []
    for name, (one, two) in _pairs(first, second):
        metric = one.task.metrics[0]
        sides = (one.compared(metric), two.compared(metric))
        random = task_random(seed, name, _PERMUTE)
        draws.append(permuted_differences(metric, one.gold, *sides, resamples, random))
        tasks[name] = _contrast(one, two, intervals.tasks[name], draws[-1])
    p_value, test = _permutation_test(intervals.mean, weights @ np.array(draws))
    if len(tasks) == 1:  # the mean is the task's score, whose test may be exact
        p_value, test = next((task.p_value, task.test) for task in tasks.values())
    mean = Contrast(
        first=weighted_mean([task.first for task in tasks.values()], weights),
        second=weighted_mean([task.second for task in tasks.values()], weights),
        difference=intervals.mean,
        p_value=p_value,
        test=test,
    )
    return RunContrast(mean, tasks)


def _contrast(
    one: TaskPredictions, two: TaskPredictions, difference: Interval, draws: Array
) -> TaskContrast:
    metric = one.task.metrics[0]
    p_value, test = _permutation_test(difference, draws)
    discordant = discordant_rows(metric, one.gold, one.predicted, two.predicted)
    if discordant is not None:
        p_value, test = mcnemar_test(discordant), "McNemar, exact"
    return TaskContrast(
        first=one.score(metric),
        second=two.score(metric),
        difference=difference,
        p_value=p_value,
        test=test,
        metric=metric,
        rows=len(one.rows),
        discordant=discordant,
    )


def _permutation_test(difference: Interval, draws: Array) -> tuple[float, str]:
    return tail_share(difference.value, draws), f"{len(draws)} permutations"


def _pairs(
    first: Mapping[str, TaskPredictions], second: Mapping[str, TaskPredictions]
) -> list[tuple[str, tuple[TaskPredictions, TaskPredictions]]]:
    return [(name, (first[name], second[name])) for name in first]


def _check_same(
    first: Mapping[str, TaskPredictions], second: Mapping[str, TaskPredictions]
) -> None:
    if first.keys() != second.keys():
        raise _different_tasks(list(first), list(second))
    for name, (one, two) in _pairs(first, second):
        for field in ("version", "type", "metrics", "labels", "average"):
            values = getattr(one.task, field), getattr(two.task, field)
            if values[0] != values[1]:
                raise DataError(
                    f"{name}: the two runs define the task differently: {field} is {values[0]!r} "
                    f"in the first and {values[1]!r} in the second",
                    allowed="the same definition of the task in both runs",
                    action="train the older run again with the current definition of the task",
                )
        if mismatch := first_mismatch(one, two):
            raise DataError(
                f"{name}: the runs were not scored on the same rows: {mismatch}",
                allowed="two runs scored on the same rows, with the same right answers",
                action="train both with the same data, tasks.evaluation_rows and evaluation.split",
            )


def _different_tasks(first: list[str], second: list[str]) -> DataError:
    unshared = {
        "first": [name for name in first if name not in second],
        "second": [name for name in second if name not in first],
    }
    listed = [f"only the {run} has {', '.join(names)}" for run, names in unshared.items() if names]
    shared = [name for name in first if name in second]
    return DataError(
        f"the runs have different tasks: {'; '.join(listed)}",
        allowed="two runs of the same tasks",
        action=f"compare a task that both have, with --task: {', '.join(shared)}"
        if shared
        else "give two runs that share a task",
    )
