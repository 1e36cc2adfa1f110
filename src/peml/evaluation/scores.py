"""A finished run's scores with their intervals, from the predictions it kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peml.evaluation.metrics import GROUP_SCORES
from peml.evaluation.predictions import KeptPredictions, KeptTask
from peml.evaluation.statistics import Interval, percentile_interval, resample, task_random

__all__ = ["RunScores", "TaskScores", "score_run"]


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
class RunScores:
    """A run's scores.

    Attributes:
        mean: Mean of the headline metrics over tasks; each task's rows are drawn apart.
        majority_mean: Mean over tasks of the best constant guesses.
        tasks: Of each task.
    """

    mean: Interval
    majority_mean: float
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
    tasks, headlines, draws = {}, [], []
    for name, kept in predictions.items():
        intervals = {}
        for metric, value in kept.metrics().items():
            random = task_random(seed, name)  # the same rows for every metric
            drawn = _resampled(kept, metric, resamples, random)
            intervals[metric] = percentile_interval(value, drawn)
            if metric == kept.task.metrics[0]:
                headlines.append(value)
                draws.append(drawn)
        tasks[name] = TaskScores(kept.task, len(kept.rows), intervals, kept.majority())
    majorities = [task.majority[task.task.metrics[0]] for task in tasks.values()]
    return RunScores(
        mean=percentile_interval(float(np.mean(headlines)), np.mean(draws, axis=0)),
        majority_mean=float(np.mean(majorities)),
        tasks=tasks,
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
