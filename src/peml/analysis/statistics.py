"""Intervals of scores and of differences between two methods, by bootstrap.

A resample draws rows with replacement.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peml.analysis.scorers import weighted_scorer
from peml.errors import DataError, nearest
from peml.evaluation.metrics import METRICS

Array = NDArray[np.float64]
Values = Sequence[Any]

_BOUNDS = (2.5, 97.5)  # percent: a 95 % interval
_COUNTS_AT_ONCE = 1_000_000  # rows times resamples in memory at a time; 8 MB per array


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its 95 % percentile interval.

    Attributes:
        value: Computed from the data itself, not the middle of the resamples.
        low: The 2.5th percentile of the resamples.
        high: The 97.5th percentile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedTask:
    """Two methods' predictions for the same rows of one task.

    `first` and `second` have the predictions per seed, one per row, with the same seeds in the same
    order.
    """

    metric: str
    gold: Values
    first: Sequence[Values]
    second: Sequence[Values]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """First minus second: of the mean over tasks, and of each task."""

    mean: Interval
    tasks: dict[str, Interval]


def paired_difference(
    tasks: Mapping[str, PairedTask],
    weights: Sequence[float] | Array | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """How much better the first method is, with intervals from a paired bootstrap.

    Each resample draws a task's rows with replacement, the same rows for both methods and all
    seeds, and independently for each task. It also draws the pairs of runs with replacement, one
    draw for all tasks, because one run trains them all. So the interval covers the randomness of
    both rows and seeds. With few seeds it is somewhat narrow (their spread is underestimated by a
    factor of sqrt((seeds - 1) / seeds)); with one seed it covers the rows alone. `weights` are
    those of the tasks in the mean, (tasks,); default: equal. A task's interval doesn't depend on
    the other tasks.

    Raises:
        DataError: Rows or seeds don't pair up, there are none, or a metric is unknown.
    """
    seeds = _check_pairs(tasks)
    seed_weights = _draw(np.random.default_rng(seed), resamples, seeds) / seeds
    values, draws = [], []
    for name, task in tasks.items():
        runs = [*task.first, *task.second]
        drawn = resample(task.metric, task.gold, runs, resamples, task_random(seed, name))
        draws.append(((drawn[:, :seeds] - drawn[:, seeds:]) * seed_weights).sum(axis=1))
        exact = [METRICS[task.metric](task.gold, run) for run in runs]
        values.append(float(np.mean(exact[:seeds]) - np.mean(exact[seeds:])))
    intervals = {n: percentile_interval(v, d) for n, v, d in zip(tasks, values, draws, strict=True)}
    mean = float(np.average(values, weights=weights))
    drawn = np.average(draws, axis=0, weights=weights)
    return PairedDifference(mean=percentile_interval(mean, drawn), tasks=intervals)


def percentile_interval(value: float, draws: Array) -> Interval:
    """A value with the 95 % interval of its resamples, (resamples,)."""
    low, high = np.percentile(draws, _BOUNDS)
    return Interval(value, float(low), float(high))


def task_random(seed: int, task: str, use: int = 0) -> np.random.Generator:
    """A task's random generator: independent of other tasks, and different for each ``use``."""
    return np.random.default_rng([seed, zlib.crc32(task.encode()), *([use] if use else [])])


def _check_pairs(tasks: Mapping[str, PairedTask]) -> int:
    """The number of seeds."""
    if not tasks:
        raise DataError("no tasks to compare two methods on", allowed="at least one task")
    seeds = {len(runs) for task in tasks.values() for runs in (task.first, task.second)}
    if len(seeds) > 1 or 0 in seeds:
        raise DataError(
            f"runs that don't pair up: between {min(seeds)} and {max(seeds)} seeds per task",
            allowed="the same seeds, at least one, for both methods and every task",
            action="pass the seeds that both methods have finished",
        )
    for name, task in tasks.items():
        _check_rows(name, task.metric, task.gold, [*task.first, *task.second])
    return seeds.pop()


def _check_rows(name: str, metric: str, gold: Values, runs: Sequence[Values]) -> None:
    if metric not in METRICS:
        raise DataError(
            f"{name}: unknown metric {metric!r}.{nearest(metric, METRICS)}",
            allowed=", ".join(METRICS),
        )
    lengths = {len(run) for run in runs}
    if lengths != {len(gold)} or not len(gold):
        raise DataError(
            f"{name}: {len(gold)} right answers, and predictions for "
            f"{', '.join(map(str, sorted(lengths)))} rows",
            allowed="as many predictions as right answers, at least one",
            action="evaluate the runs on the same rows",
        )


def _draw(random: np.random.Generator, resamples: int, items: int) -> Array:
    """How often each item is drawn in ``items`` draws with replacement: (resamples, items)."""
    drawn = random.integers(0, items, (resamples, items))
    drawn += items * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(np.float64)


def resample(
    metric: str, gold: Values, runs: Sequence[Values], resamples: int, random: np.random.Generator
) -> Array:
    """The metric of each run in each resample of the rows: (resamples, runs)."""
    score = weighted_scorer(metric, gold, runs)
    size = max(1, _COUNTS_AT_ONCE // len(gold))
    return np.concatenate(
        [
            score(_draw(random, min(size, resamples - start), len(gold)))
            for start in range(0, resamples, size)
        ]
    )
