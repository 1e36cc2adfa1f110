"""A finished run's scores with intervals, from its stored predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from peml.analysis.statistics import Interval, percentile_interval, resample, task_random
from peml.evaluation.averages import common_average, gather_groups, mean_weights, weighted_mean
from peml.evaluation.metrics import GROUP_SCORES, PROPORTIONS, ROW_SCORES
from peml.evaluation.predictions import KeptTask, TaskPredictions
from peml.tasks import Averaging

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task's scores.

    `metrics` have intervals over rows, headline first; `majority` has those of the constant
    baseline.
    """

    task: KeptTask
    rows: int
    metrics: dict[str, Interval]
    majority: dict[str, float]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Means over some tasks.

    The interval of the mean is combined as of independent samples. `average` says whether both
    means weigh tasks or rows equally.
    """

    mean: Interval
    majority_mean: float
    average: Averaging
    names: list[str]


@dataclass(frozen=True, slots=True)
class RunScores:
    """A run's scores: over all tasks, over the tasks of each group (if any), and per task."""

    overall: GroupScores
    groups: dict[str, GroupScores]
    tasks: dict[str, TaskScores]


def score_run(
    predictions: Mapping[str, TaskPredictions], *, resamples: int = 2000, seed: int = 0
) -> RunScores:
    """Recomputes every metric, with 95 % intervals over rows.

    The intervals cover the randomness of the rows only: another seed of the same run may differ by
    more.

    A task's bootstrap draws don't depend on the other tasks.
    """
    tasks = {}
    for name, kept in predictions.items():
        intervals = {
            metric: score_interval(kept, metric, resamples=resamples, seed=seed)
            for metric in kept.task.metrics
        }
        tasks[name] = TaskScores(kept.task, len(kept.rows), intervals, kept.majority())
    groups = gather_groups({name: scores.task.group for name, scores in tasks.items()})
    return RunScores(
        overall=_average(list(tasks), tasks),
        groups={group: _average(names, tasks) for group, names in groups.items()},
        tasks=tasks,
    )


def score_interval(
    kept: TaskPredictions, metric: str, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """One metric of a task with its 95 % interval over rows.

    A share of right rows (or groups of rows) gets Wilson's interval, which does not shrink to zero
    width at 0 and 1; other metrics get the percentile interval of a bootstrap.
    """
    value = kept.score(metric)
    if metric in PROPORTIONS:
        if metric in GROUP_SCORES:
            right = GROUP_SCORES[metric](kept.gold, kept.predicted, kept.groups or ())
        else:
            right = ROW_SCORES[metric](kept.gold, kept.predicted)
        wilson = binomtest(round(sum(right)), len(right)).proportion_ci(method="wilson")
        return Interval(value, float(wilson.low), float(wilson.high))
    random = task_random(seed, kept.task.name)  # the same rows for every metric
    drawn = resample(metric, kept.gold, [kept.compared(metric)], resamples, random)
    return percentile_interval(value, drawn[:, 0])


def mean_interval(intervals: Sequence[Interval], weights: Array) -> Interval:
    """The weighted mean of independent scores, with its interval; the weights' sum is 1.

    The squared distances to the bounds are added ("MOVER": Zou and Donner 2008, doi
    10.1002/sim.3095).
    """
    values, lows, highs = np.array([(i.value, i.low, i.high) for i in intervals]).T
    value = weighted_mean(values.tolist(), weights)
    below = float(np.linalg.norm(weights * (values - lows)))
    above = float(np.linalg.norm(weights * (highs - values)))
    return Interval(value, value - below, value + above)


def _average(names: list[str], tasks: Mapping[str, TaskScores]) -> GroupScores:
    chosen = [tasks[name] for name in names]
    averages = [scores.task.average for scores in chosen]
    weights = mean_weights(averages, [scores.rows for scores in chosen])
    headlines = [scores.task.metrics[0] for scores in chosen]
    intervals = [s.metrics[metric] for s, metric in zip(chosen, headlines, strict=True)]
    majorities = [s.majority[metric] for s, metric in zip(chosen, headlines, strict=True)]
    return GroupScores(
        mean=mean_interval(intervals, weights),
        majority_mean=weighted_mean(majorities, weights),
        average=common_average(averages),
        names=names,
    )
