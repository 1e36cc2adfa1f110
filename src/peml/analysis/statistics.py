"""Intervals of scores and of differences between two methods.

Rows are a sample, so they are drawn with replacement (bootstrap). Seeds are a sample as well, but a
small one, of which a bootstrap sees too little spread: Student's t stands in for it.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as students_t

from peml.analysis.scorers import weighted_scorer
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
    seeds, and independently for each task. What other seeds would change is added to its
    difference: Student's t with seeds - 1 degrees of freedom, times the standard error of the
    differences per seed. So the interval covers the randomness of both rows and seeds, also of two
    or three seeds; with one seed it covers the rows alone. ``weights`` are those of the tasks in
    the mean, (tasks,); default: equal. A task's interval doesn't depend on the other tasks.

    There is at least one task; all have the same seeds.
    """
    seeds = len(next(iter(tasks.values())).first)
    gaps, draws = [], []
    for name, task in tasks.items():
        runs = [*task.first, *task.second]
        drawn = resample(task.metric, task.gold, runs, resamples, task_random(seed, name))
        draws.append((drawn[:, :seeds] - drawn[:, seeds:]).mean(axis=1))
        exact = np.array([METRICS[task.metric](task.gold, run) for run in runs], np.float64)
        gaps.append(exact[:seeds] - exact[seeds:])
    chance = _chance_of_seeds(seeds, resamples, np.random.default_rng(seed))
    intervals = [_interval(gap, drawn, chance) for gap, drawn in zip(gaps, draws, strict=True)]
    mean = _interval(
        np.average(gaps, axis=0, weights=weights),
        np.average(draws, axis=0, weights=weights),
        chance,
    )
    return PairedDifference(mean=mean, tasks=dict(zip(tasks, intervals, strict=True)))


def _chance_of_seeds(seeds: int, resamples: int, random: np.random.Generator) -> Array:
    """What a resample adds and subtracts, in standard errors of the mean over seeds, (resamples,).

    Evenly spaced quantiles of Student's t from 0 up, in random order; zeros for one seed.
    """
    if seeds == 1:
        return np.zeros(resamples)
    shares = (1 + (np.arange(resamples) + 0.5) / resamples) / 2
    return random.permutation(students_t.ppf(shares, seeds - 1))


def _interval(gaps: Array, draws: Array, chance: Array) -> Interval:
    """Of the mean of the differences per seed, (seeds,); ``draws`` differ by their rows alone."""
    error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    shift = error * chance
    return percentile_interval(float(gaps.mean()), np.concatenate([draws - shift, draws + shift]))


def percentile_interval(value: float, draws: Array) -> Interval:
    """A value with the 95 % interval of its resamples, (resamples,)."""
    low, high = np.percentile(draws, _BOUNDS)
    return Interval(value, float(low), float(high))


def task_random(seed: int, task: str, use: int = 0) -> np.random.Generator:
    """A task's random generator: independent of other tasks, and different for each ``use``."""
    return np.random.default_rng([seed, zlib.crc32(task.encode()), *([use] if use else [])])


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
