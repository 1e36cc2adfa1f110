"""A finished run's scores with their intervals, from the predictions it kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peml.evaluation.averages import (
    common_average,
    gather_groups,
    mean_weights,
    weighted_mean,
)
from peml.evaluation.metrics import GROUP_SCORES
from peml.evaluation.predictions import KeptPredictions, KeptTask
from peml.evaluation.statistics import Interval, percentile_interval, resample, task_random
from peml.tasks import Averaging

__all__ = ["GroupScores", "RunScores", "TaskScores", "score_run"]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task's scores.

    Attributes:
        task: Which task.
        rows: Number of rows.
        metrics: Each metric with its interval over rows, headline first.
        majority: Each metric of the best constant guess.
    """

    task: KeptTask
    rows: int
    metrics: dict[str, Interval]
    majority: dict[str, float]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Means over some tasks.

    Attributes:
        mean: Of the headline metrics; each task's rows are drawn apart.
        majority_mean: Of the best constant guesses.
        average: What counts alike in both, tasks or rows.
        names: The tasks.
    """

    mean: Interval
    majority_mean: float
    average: Averaging
    names: list[str]


@dataclass(frozen=True, slots=True)
class RunScores:
    """A run's scores.

    Attributes:
        overall: Means over all tasks.
        groups: Means over the tasks of each group, where there are groups.
        tasks: Of each task.
    """

    overall: GroupScores
    groups: dict[str, GroupScores]
    tasks: dict[str, TaskScores]


def score_run(
    predictions: Mapping[str, KeptPredictions], *, resamples: int = 2000, seed: int = 0
) -> RunScores:
    """Recomputes every metric, with 95 % bootstrap intervals over rows.

    The intervals tell the chance in the rows alone: another seed of the same run may differ by
    more.

    Args:
        predictions: By task, at least one.
        resamples: Number of resamples.
        seed: Of the draws. A task's interval doesn't depend on which other tasks there are.
    """
    tasks, draws = {}, {}
    for name, kept in predictions.items():
        intervals = {}
        for metric, value in kept.metrics().items():
            random = task_random(seed, name)  # the same rows for every metric
            drawn = _resampled(kept, metric, resamples, random)
            intervals[metric] = percentile_interval(value, drawn)
            if metric == kept.task.metrics[0]:
                draws[name] = drawn
        tasks[name] = TaskScores(kept.task, len(kept.rows), intervals, kept.majority())
    groups = gather_groups({name: scores.task.group for name, scores in tasks.items()})
    return RunScores(
        overall=_average(list(tasks), tasks, draws),
        groups={group: _average(names, tasks, draws) for group, names in groups.items()},
        tasks=tasks,
    )


def _average(
    names: list[str],
    tasks: Mapping[str, TaskScores],
    draws: Mapping[str, NDArray[np.float64]],
) -> GroupScores:
    chosen = [tasks[name] for name in names]
    averages = [scores.task.average for scores in chosen]
    weights = mean_weights(averages, [scores.rows for scores in chosen])
    headlines = [scores.task.metrics[0] for scores in chosen]
    values = [s.metrics[metric].value for s, metric in zip(chosen, headlines, strict=True)]
    majorities = [s.majority[metric] for s, metric in zip(chosen, headlines, strict=True)]
    drawn: NDArray[np.float64] = weights @ np.array([draws[name] for name in names])
    return GroupScores(
        mean=percentile_interval(weighted_mean(values, weights), drawn),
        majority_mean=weighted_mean(majorities, weights),
        average=common_average(averages),
        names=names,
    )


def _resampled(
    kept: KeptPredictions, metric: str, resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """The metric in each resample of the rows, or of the groups it is over, (resamples,)."""
    if metric in GROUP_SCORES:
        scores = GROUP_SCORES[metric](kept.gold, kept.predicted, kept.groups or ())
        right = [1.0] * len(scores)
        return resample("accuracy", right, [scores], resamples, random)[:, 0]
    return resample(metric, kept.gold, [kept.predicted], resamples, random)[:, 0]
