"""Differences and p-values of two runs, against SciPy, brute force and hand-made cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from peml.analysis.pairing import contrast_runs
from peml.analysis.significance import (
    discordant_rows,
    levelled,
    mcnemar_test,
    permuted_differences,
    tail_share,
)
from peml.analysis.statistics import PairedTask, paired_difference
from peml.errors import DataError
from peml.evaluation import TaskPredictions
from peml.evaluation.metrics import METRICS
from peml.evaluation.predictions import KeptTask
from peml.tasks import OF_SCORES, TaskType
from tests.analysis.test_statistics import answers


def kept(metric: str, gold: Any, predicted: Any, name: str = "a") -> TaskPredictions:
    """Predictions of a task whose type has the metric."""
    kind = min(kind for kind in TaskType if metric in kind.metrics)
    task = KeptTask(name=name, version=1, type=kind, metrics=(metric,), majority=gold[0])
    scores = [[0.0, each] if metric in OF_SCORES else [] for each in predicted]
    return TaskPredictions(task, range(len(gold)), gold, predicted, scores)


def pair(metric: str, rows: int, seed: int) -> tuple[TaskPredictions, TaskPredictions]:
    gold, good, bad = answers(metric, rows, seed)
    return kept(metric, gold, good), kept(metric, gold, bad)


def swap(first: list[Any], second: list[Any], mask: Any) -> tuple[list[Any], list[Any]]:
    """The two runs with the predictions of the masked rows exchanged."""
    rows = list(zip(first, second, mask, strict=True))
    return [b if m else a for a, b, m in rows], [a if m else b for a, b, m in rows]


@pytest.mark.parametrize("metric", METRICS)
def test_row_weights_equal_predictions_really_swapped(metric: str) -> None:
    gold, good, bad = answers(metric, rows=25, seed=1)
    found = permuted_differences(metric, gold, good, bad, 40, np.random.default_rng(3))
    masks = np.random.default_rng(3).integers(0, 2, (40, 25))
    score = METRICS[metric]
    first, second = (list(levelled(metric, said)) for said in (good, bad))
    slow = [
        score(gold, one) - score(gold, two)
        for one, two in (swap(first, second, mask) for mask in masks)
    ]
    assert found == pytest.approx(slow, abs=1e-12)
    assert len(set(found.round(9))) > 3


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "rouge_l"])
def test_the_p_value_is_the_share_of_all_swaps(metric: str) -> None:
    gold, good, bad = answers(metric, rows=8, seed=3)
    score = METRICS[metric]
    value = score(gold, good) - score(gold, bad)
    first, second = (list(levelled(metric, said)) for said in (good, bad))
    whole = [
        score(gold, one) - score(gold, two)
        for one, two in (swap(first, second, mask) for mask in product((0, 1), repeat=8))
    ]
    exact = float(np.mean([abs(d) >= abs(value) - 1e-12 for d in whole]))
    assert 0.02 < exact < 0.98
    draws = permuted_differences(metric, gold, good, bad, 20000, np.random.default_rng(0))
    assert tail_share(value, draws) == pytest.approx(exact, abs=0.015)


def test_scipys_permutation_test_agrees() -> None:
    gold, good, bad = answers("pearson", rows=40, seed=2)
    truth = np.array(gold)

    def difference(one: Any, two: Any) -> float:
        return float(np.corrcoef(truth, one)[0, 1] - np.corrcoef(truth, two)[0, 1])

    bad = (0.6 * np.array(good) + 0.4 * np.array(bad)).tolist()
    theirs = stats.permutation_test(
        (stats.zscore(good), stats.zscore(bad)),
        difference,
        permutation_type="samples",
        n_resamples=4000,
        rng=0,
    ).pvalue
    found = contrast_runs(
        {"a": kept("pearson", gold, good)}, {"a": kept("pearson", gold, bad)}, resamples=4000
    )
    assert 0.001 < theirs < 0.9
    assert found.tasks["a"].p_value == pytest.approx(theirs, abs=0.02)
    assert found.tasks["a"].test == "4000 permutations"


@pytest.mark.parametrize("metric", ["auroc", "average_precision", "pearson", "spearman"])
def test_the_scale_of_a_run_does_not_hide_its_difference(metric: str) -> None:
    gold, good, bad = answers(metric, rows=60, seed=1)
    bad = (0.6 * np.array(good) + 0.4 * np.array(bad)).tolist()
    far = [40 * said + 7 for said in bad]
    plain, scaled = (
        contrast_runs({"a": kept(metric, gold, good)}, {"a": kept(metric, gold, said)}).mean
        for said in (bad, far)
    )
    assert scaled.difference.value == pytest.approx(plain.difference.value)
    assert scaled.p_value == plain.p_value
    assert plain.p_value < 0.5


def test_mcnemar_by_hand_and_as_all_swaps() -> None:
    # Six rows that one run alone has right, five of them the second: 2 (1 + 6) / 2^6.
    gold = [1] * 10
    first, second = [1] * 3 + [0] * 5 + [1, 0], [1] * 3 + [1] * 5 + [0, 0]
    counts = discordant_rows("accuracy", gold, first, second)
    assert counts == (1, 5)
    assert mcnemar_test((1, 5)) == pytest.approx(14 / 64)
    exact = stats.permutation_test(
        (first, second), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples"
    )
    assert mcnemar_test((1, 5)) == pytest.approx(exact.pvalue)
    assert mcnemar_test((0, 0)) == 1.0
    found = contrast_runs(
        {"a": kept("accuracy", gold, first)}, {"a": kept("accuracy", gold, second)}
    )
    task = found.tasks["a"]
    assert [task.first, task.second] == pytest.approx([0.4, 0.8])
    assert (task.discordant, task.test, task.p_value) == ((1, 5), "McNemar, exact", 14 / 64)
    assert (found.mean.p_value, found.mean.test) == (task.p_value, task.test)


def test_only_rows_that_are_right_or_wrong_are_counted() -> None:
    assert discordant_rows("f1", [1, 0], [1, 0], [0, 0]) is None
    assert discordant_rows("rouge_l", ["a b"], ["a"], ["a b"]) is None
    assert discordant_rows("exact_match", ["a b", "c"], ["A  b", "d"], ["a", "d"]) == (1, 0)


def test_the_interval_is_that_of_the_paired_bootstrap() -> None:
    one, two = pair("matthews", 60, 4)
    plain = paired_difference(
        {"a": PairedTask("matthews", one.gold, [one.predicted], [two.predicted])}
    )
    assert contrast_runs({"a": one}, {"a": two}).tasks["a"].difference == plain.tasks["a"]


def test_the_mean_is_tested_over_the_tasks_together() -> None:
    """Three tasks, none of them significant alone, that all point the same way."""
    gold = [1] * 60
    first, second = [1] * 60, [0] * 5 + [1] * 55
    runs = [
        {name: kept("accuracy", gold, said, name) for name in "abc"} for said in (first, second)
    ]
    found = contrast_runs(*runs)
    assert [task.p_value for task in found.tasks.values()] == [pytest.approx(2 / 32)] * 3
    # All 15 discordant rows have to fall on the same side: 2 / 2^15, with draws 1 / 2001.
    assert found.mean.p_value == pytest.approx(1 / 2001)
    assert found.mean.difference.value == pytest.approx(5 / 60)
    assert [found.mean.first, found.mean.second] == pytest.approx([1, 55 / 60])
    assert found.mean.test == "2000 permutations"


def test_tasks_that_cancel_out_leave_no_difference() -> None:
    gold = [1] * 40
    good, bad = [1] * 40, [0] * 12 + [1] * 28
    first = {"a": kept("accuracy", gold, good, "a"), "b": kept("accuracy", gold, bad, "b")}
    second = {"a": kept("accuracy", gold, bad, "a"), "b": kept("accuracy", gold, good, "b")}
    found = contrast_runs(first, second)
    assert all(task.p_value < 0.001 for task in found.tasks.values())
    assert found.mean.p_value == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_runs_that_are_equally_good_are_seldom_called_different(metric: str) -> None:
    random = np.random.default_rng(5)
    found = []
    for trial in range(200):
        gold = random.integers(0, 2, 60)
        said = np.where(random.random((2, 60)) < 0.75, gold, 1 - gold)
        one, two = (kept(metric, gold.tolist(), run.tolist()) for run in said)
        found.append(contrast_runs({"a": one}, {"a": two}, resamples=199, seed=trial).mean.p_value)
    assert np.mean(np.array(found) <= 0.05) <= 0.08
    assert 0.35 < np.mean(found) < 0.75


def test_swapping_the_runs_swaps_the_signs_and_keeps_the_p_value() -> None:
    one, two = pair("accuracy", 50, 3)
    ahead, behind = contrast_runs({"a": one}, {"a": two}), contrast_runs({"a": two}, {"a": one})
    assert ahead.mean.difference.value == -behind.mean.difference.value
    assert ahead.tasks["a"].p_value == behind.tasks["a"].p_value
    assert ahead.tasks["a"].discordant == (behind.tasks["a"].discordant or (0, 0))[::-1]


def test_a_diverged_run_has_no_p_value() -> None:
    gold, good, _ = answers("pearson", 20, 0)
    wild = {"a": kept("pearson", gold, [float("nan")] * 20)}
    found = contrast_runs({"a": kept("pearson", gold, good)}, wild)
    assert np.isnan(found.tasks["a"].p_value)
    assert np.isnan(found.mean.p_value)


def test_permutations_in_parts_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, good, bad = answers("f1", 30, 0)
    monkeypatch.setattr("peml.analysis.significance._CELLS_AT_ONCE", 3 * 60)
    parts = permuted_differences("f1", gold, good, bad, 100, np.random.default_rng(0))
    monkeypatch.undo()
    whole = permuted_differences("f1", gold, good, bad, 100, np.random.default_rng(0))
    assert parts == pytest.approx(whole)


ONE = kept("accuracy", [1, 0, 1], [1, 1, 1])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"b": ONE}, "only the first has a; only the second has b"),
        ({"a": ONE, "b": ONE}, "different tasks: only the second has b"),
        (
            {"a": replace(ONE, task=ONE.task.model_copy(update={"version": 2}))},
            "a: the two runs define the task differently: version is 1 in the first and 2 in",
        ),
        (
            {"a": replace(ONE, gold=[1, 0, 0])},
            "a: .*the answer of row 2 is 'option 1' in the first",
        ),
        ({"a": replace(ONE, rows=[0, 4, 2])}, "the first has row 1, the second has row 4"),
    ],
)
def test_runs_that_do_not_pair_up_are_refused(
    second: dict[str, TaskPredictions], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        contrast_runs({"a": ONE}, second)
    assert caught.value.allowed
    assert caught.value.action


def test_a_shared_task_is_offered() -> None:
    with pytest.raises(DataError, match=r"--task: a$"):
        contrast_runs({"a": ONE, "b": ONE}, {"a": ONE, "c": ONE})


def test_the_p_value_of_a_mean_over_rows_weighs_tasks_by_their_rows() -> None:
    """A clear difference on a tiny task says little about a mean that counts rows alike."""
    large, small = [1] * 400, [1] * 12
    runs: list[dict[str, TaskPredictions]] = []
    for shift, hits in ((0, 12), (3, 2)):
        said = [int(n % 3 != shift % 3) for n in range(400)]
        made = {
            "large": kept("accuracy", large, said, "large"),
            "small": kept("accuracy", small, [1] * hits + [0] * (12 - hits), "small"),
        }
        runs.append(
            {
                name: replace(each, task=each.task.model_copy(update={"average": "rows"}))
                for name, each in made.items()
            }
        )
    # the large task's answers differ on many rows, and neither run is better on it
    other = runs[1]["large"]
    runs[1]["large"] = replace(other, predicted=[*other.predicted[200:], *other.predicted[:200]])
    found = contrast_runs(*runs, resamples=4000).mean
    random = np.random.default_rng(5)
    gaps = [
        np.array(one.predicted) - np.array(two.predicted)
        for one, two in zip(runs[0].values(), runs[1].values(), strict=True)
    ]
    signs = [1 - 2 * random.integers(0, 2, (4000, len(gap))) for gap in gaps]
    draws = sum(sign @ gap for sign, gap in zip(signs, gaps, strict=True)) / 412
    slow = tail_share(sum(gap.sum() for gap in gaps) / 412, draws)
    assert found.p_value == pytest.approx(slow, abs=0.03)
    alike = [
        {n: replace(e, task=e.task.model_copy(update={"average": "tasks"})) for n, e in run.items()}
        for run in runs
    ]
    assert contrast_runs(*alike, resamples=4000).mean.p_value < slow / 3
