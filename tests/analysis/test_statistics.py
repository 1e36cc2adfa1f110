from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from peml.analysis.scorers import weighted_scorer
from peml.analysis.statistics import (
    Interval,
    PairedTask,
    _draw,
    paired_difference,
    percentile_interval,
    resample,
)
from peml.evaluation.metrics import METRICS
from peml.tasks import OF_SCORES

WORDS = ("a red cat", "the cat", "a dog runs 7", "red 7", "the dog 8")
OPTIONS = ("answer1", "it is answer2", "answer1, not answer2", "answer3")
TEXT_METRICS = ("rouge", "exact_match", "span", "number_match", "bleu", "chrf")


def unpaired(metric: str, gold: list[Any], predicted: list[Any]) -> Interval:
    """One run's score with its interval over rows."""
    drawn = resample(metric, gold, [predicted], 501, np.random.default_rng(0))
    return percentile_interval(METRICS[metric](gold, predicted), drawn[:, 0])


def answers(metric: str, rows: int, seed: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Right answers, and those of a good and of a bad method."""
    random = np.random.default_rng(seed)
    if metric in ("pearson", "spearman", "r2", "rmse", "mae"):
        truth = np.round(random.normal(size=rows), 1)  # with ties
        noise = random.normal(size=(2, rows))
        good, bad = truth + 0.5 * noise[0], np.round(truth + 2 * noise[1], 1)
        return truth.tolist(), good.tolist(), bad.tolist()
    if metric in OF_SCORES:
        classes = random.integers(0, 2, rows)
        ranks = classes + np.round(random.normal(size=(2, rows)), 1) * [[0.5], [3]]  # with ties
        return classes.tolist(), ranks[0].tolist(), ranks[1].tolist()
    options: Sequence[Any] = [0, 1] if metric in ("f1", "f1a") else range(4)
    options = WORDS if metric.startswith(TEXT_METRICS) else options
    options = OPTIONS if metric == "option_match" else options
    picks = random.integers(0, len(options), (3, rows))
    keep = random.random((2, rows)) < [[0.8], [0.5]]
    said = np.where(keep, picks[0], picks[1:])
    truth_words, good_words, bad_words = ([options[i] for i in row] for row in (picks[0], *said))
    return truth_words, good_words, bad_words


@pytest.mark.parametrize("metric", METRICS)
def test_weighted_sums_equal_the_metric_of_rows_really_drawn(metric: str) -> None:
    gold, good, bad = answers(metric, rows=30, seed=1)
    counts = _draw(np.random.default_rng(2), 40, 30)
    assert (counts.sum(axis=1) == 30).all()
    found = weighted_scorer(metric, gold, [good, bad])(counts)
    for drawn, scores in zip(counts.astype(int), found, strict=True):
        rows = np.repeat(np.arange(30), drawn)
        for said, score in zip((good, bad), scores, strict=True):
            slow = METRICS[metric]([gold[r] for r in rows], [said[r] for r in rows])
            assert score == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    "metric",
    ["matthews", "macro_f1", "f1", "pearson", "spearman", "r2", "auroc", "average_precision"],
)
def test_a_resample_without_variety_counts_as_the_metric_does(metric: str) -> None:
    gold, said = [1, 1, 0, 1], [1, 0, 1, 1]
    found = weighted_scorer(metric, gold, [said, [1] * 4])
    for counts in product(range(5), repeat=4):
        if sum(counts) == 4:
            rows = np.repeat(np.arange(4), counts)
            slow = [METRICS[metric]([gold[r] for r in rows], [s[r] for r in rows])
                    for s in (said, [1] * 4)]  # fmt: skip
            assert found(np.array([counts], float))[0] == pytest.approx(slow, abs=1e-12)


def test_the_value_is_the_metrics_own() -> None:
    gold, good, bad = answers("f1", 50, 0)
    expected = METRICS["f1"](gold, good) - METRICS["f1"](gold, bad)
    found = paired_difference({"a": PairedTask("f1", gold, [good], [bad])}, resamples=20)
    assert found.tasks["a"].value == found.mean.value == expected
    assert METRICS["f1"](gold, good) == sk.f1_score(gold, good)


def test_the_mean_is_over_tasks_and_seeds() -> None:
    tasks = {}
    for name, metric in {"a": "accuracy", "b": "pearson", "c": "matthews"}.items():
        runs = [answers(metric, 60, seed) for seed in (5, 5)]
        gold = runs[0][0]
        tasks[name] = PairedTask(metric, gold, [runs[0][1], runs[0][2]], [runs[0][2]] * 2)
    found = paired_difference(tasks, resamples=50)
    for name, task in tasks.items():
        gaps = [
            METRICS[task.metric](task.gold, one) - METRICS[task.metric](task.gold, two)
            for one, two in zip(task.first, task.second, strict=True)
        ]
        assert found.tasks[name].value == pytest.approx(np.mean(gaps))
    values = [interval.value for interval in found.tasks.values()]
    assert found.mean.value == pytest.approx(np.mean(values))


def test_a_slow_bootstrap_agrees() -> None:
    """Rows drawn one resample at a time; with two labels Matthews is Pearson."""
    random = np.random.default_rng(3)
    gold, good, bad = answers("f1", 80, 3)
    first, second = [good, bad, good], [bad, good, bad]
    truth, one, two = (np.array(values) for values in (gold, first, second))

    def gaps(rows: NDArray[np.int64]) -> list[float]:
        return [
            np.corrcoef(truth[rows], first[rows])[0, 1]
            - np.corrcoef(truth[rows], other[rows])[0, 1]
            for first, other in zip(one, two, strict=True)
        ]

    error = np.std(gaps(np.arange(80)), ddof=1) / np.sqrt(3)
    draws = [
        np.mean(gaps(random.integers(0, 80, 80))) + error * random.standard_t(2)
        for _ in range(4000)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    found = paired_difference({"a": PairedTask("matthews", gold, first, second)}).tasks["a"]
    width = high - low
    assert found.low == pytest.approx(low, abs=0.1 * width)
    assert found.high == pytest.approx(high, abs=0.1 * width)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_with_exact_rows_the_interval_is_the_t_tests(seeds: int) -> None:
    """Predictions that are right on the same share of rows everywhere: rows add next to nothing."""
    rows = 40_000
    shares = np.linspace(0.4, 0.6, seeds)
    runs = [[int(row % 1000 < 1000 * share) for row in range(rows)] for share in shares]
    task = PairedTask("accuracy", [1] * rows, runs, [[0] * rows] * seeds)
    found = paired_difference({"a": task}, resamples=1000).mean
    expected = stats.ttest_1samp(shares, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.02 * width)
    assert found.high == pytest.approx(expected.high, abs=0.02 * width)


def test_pairing_takes_out_what_both_methods_share() -> None:
    gold, good, _ = answers("accuracy", 400, 0)
    almost = [*good[:-8], *[-1] * 8]  # right and wrong on the same rows, but for eight
    paired = paired_difference({"a": PairedTask("accuracy", gold, [good], [almost])}).mean
    alone = unpaired("accuracy", gold, good)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_seeds_that_differ_widen_the_interval() -> None:
    gold, good, bad = answers("accuracy", 500, 0)
    level = PairedTask("accuracy", gold, [good] * 3, [bad] * 3)
    torn = PairedTask("accuracy", gold, [good, bad, good], [bad, good, bad])
    narrow, wide = (paired_difference({"a": task}).mean for task in (level, torn))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_swapping_the_methods_swaps_the_signs() -> None:
    tasks, swapped = {}, {}
    for metric in METRICS:
        gold, good, bad = answers(metric, 30, 4)
        tasks[metric] = PairedTask(metric, gold, [good, bad], [bad, bad])
        swapped[metric] = PairedTask(metric, gold, [bad, bad], [good, bad])
    one, two = (paired_difference(t, resamples=200) for t in (tasks, swapped))
    for name, found in [("mean", one.mean), *one.tasks.items()]:
        other = two.mean if name == "mean" else two.tasks[name]
        mirrored = [-other.value, -other.high, -other.low]
        assert [found.value, found.low, found.high] == pytest.approx(mirrored, abs=1e-12)


def test_equal_methods_differ_by_nothing() -> None:
    gold, good, _ = answers("macro_f1", 40, 0)
    task = PairedTask("macro_f1", gold, [good] * 2, [good] * 2)
    assert paired_difference({"a": task}).mean == Interval(0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_whatever_the_other_tasks() -> None:
    gold, good, bad = answers("accuracy", 50, 0)
    task = PairedTask("accuracy", gold, [good, bad], [bad, bad])
    alone = paired_difference({"b": task})
    assert alone == paired_difference({"b": task})
    assert alone != paired_difference({"b": task}, seed=1)
    both = paired_difference({"a": task, "b": task})
    assert both.tasks["b"] == alone.tasks["b"]
    assert both.tasks["a"] != both.tasks["b"]  # rows of different tasks are drawn apart


def test_chunks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, good, _ = answers("pearson", 200, 0)
    whole = unpaired("pearson", gold, good)
    monkeypatch.setattr("peml.analysis.statistics._COUNTS_AT_ONCE", 3 * 200)
    parts = unpaired("pearson", gold, good)
    assert parts.value == whole.value
    width = whole.high - whole.low
    assert abs(parts.low - whole.low) < 0.2 * width
    assert abs(parts.high - whole.high) < 0.2 * width


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds: int) -> None:
    """Two methods of accuracy 0.8 and 0.7 whose runs differ by chance as well."""
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        rates = np.array([[0.8], [0.7]]) + 0.05 * random.normal(size=(2, seeds))  # a run's own
        right = random.random((2, seeds, 300)) < rates[..., None]
        first, second = right.astype(int).tolist()
        task = PairedTask("accuracy", [1] * 300, first, second)
        found = paired_difference({"a": task}, resamples=300, seed=trial).mean
        hits += found.low <= 0.1 <= found.high
    assert 0.91 <= hits / 200 <= 0.995


def test_a_diverged_regression_has_no_interval() -> None:
    gold, good, _ = answers("pearson", 20, 0)
    found = paired_difference({"a": PairedTask("pearson", gold, [good], [[float("nan")] * 20])})
    assert not np.isfinite([found.mean.value, found.mean.low, found.mean.high]).any()
