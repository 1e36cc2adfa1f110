"""A run's scores with intervals, and its mistakes, from kept predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from peml.analysis.mistakes import find_mistakes
from peml.analysis.pairing import contrast_runs
from peml.analysis.scores import score_run
from peml.errors import DataError
from peml.evaluation import TaskPredictions
from peml.evaluation.metrics import METRICS
from peml.evaluation.predictions import KeptTask
from peml.tasks import TaskType
from tests.analysis.test_pairing import kept as scored
from tests.analysis.test_statistics import answers
from tests.evaluation.test_predictions import answered_in_text, kept


def accuracy_run(rows: int, hits: int, name: str = "a") -> TaskPredictions:
    said = [1] * hits + [0] * (rows - hits)
    return scored("accuracy", [1] * rows, said, name)


def test_every_metric_has_its_value_interval_and_baseline() -> None:
    found = score_run({"mood": kept()}).tasks["mood"]
    assert list(found.metrics) == ["accuracy", "f1"]
    assert found.metrics["accuracy"].value == 3 / 4
    assert found.metrics["f1"].value == pytest.approx(4 / 5)
    assert found.majority == {"accuracy": 1 / 2, "f1": pytest.approx(2 / 3)}
    assert found.rows == 4
    for interval in found.metrics.values():
        assert interval.low < interval.value < interval.high


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    interval = score_run({"a": accuracy_run(400, 320)}).overall.mean
    z, p, n = stats.norm.ppf(0.975), 0.8, 400
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (interval.low, interval.high) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize("hits", [0, 120])
def test_all_right_or_all_wrong_is_not_certain(hits: int) -> None:
    found = score_run({n: accuracy_run(120, hits, n) for n in ("a", "b")})
    for interval in (found.overall.mean, found.tasks["a"].metrics["accuracy"]):
        assert 0.01 < interval.high - interval.low < 0.04
        assert interval.low <= interval.value == hits / 120 <= interval.high


def test_scipys_bootstrap_agrees() -> None:
    gold, good, _ = answers("pearson", 80, 3)
    theirs = stats.bootstrap(
        (gold, good),
        lambda x, y: np.corrcoef(x, y)[0, 1],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    found = score_run({"a": scored("pearson", gold, good)}).tasks["a"].metrics["pearson"]
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.15 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.15 * width)


def test_the_mean_is_of_headlines_and_its_interval_of_independent_tasks() -> None:
    tasks = {name: accuracy_run(100, hits, name) for name, hits in {"a": 60, "b": 90}.items()}
    tasks["c"] = accuracy_run(50, 25, "c")
    found = score_run(tasks)
    assert found.overall.mean.value == pytest.approx((0.6 + 0.9 + 0.5) / 3)
    assert found.overall.majority_mean == pytest.approx(1)
    deviations = [math.sqrt(p * (1 - p) / n) for p, n in ((0.6, 100), (0.9, 100), (0.5, 50))]
    deviation = math.sqrt(sum(d**2 for d in deviations)) / 3
    assert (found.overall.mean.high - found.overall.mean.low) / 3.92 == pytest.approx(
        deviation, rel=0.1
    )


def test_a_tasks_interval_does_not_depend_on_the_others() -> None:
    gold, good, _ = answers("pearson", 50, 3)
    task = scored("pearson", gold, good, "b")
    alone = score_run({"b": task}).tasks["b"]
    assert score_run({"a": accuracy_run(40, 20), "b": task}).tasks["b"] == alone
    assert score_run({"b": task}, seed=1).tasks["b"] != alone


def test_a_diverged_regression_is_no_number() -> None:
    wild = replace(kept(TaskType.REGRESSION), predicted=[math.nan] * 4)
    found = score_run({"near": wild, "mood": kept()})
    assert math.isnan(found.overall.mean.value)
    assert found.tasks["mood"].metrics["accuracy"].value == 0.75


@pytest.mark.parametrize(
    ("kind", "rows", "margins"),
    [
        (TaskType.CLASSIFICATION, [11], [0.25]),
        (TaskType.MULTIPLE_CHOICE, [2, 11], [1.0, 0.0]),
        (TaskType.REGRESSION, [11, 5, 2], [0.5, 0.3, 1 / 3 - 0.1]),
        (TaskType.GENERATION, [7, 11, 5], [1.0, 1.0, 1 / 3]),
    ],
)
def test_mistakes_come_worst_first(kind: TaskType, rows: list[int], margins: list[float]) -> None:
    found = find_mistakes(kept(kind))
    assert [mistake.row for mistake in found] == rows
    assert [mistake.margin for mistake in found] == pytest.approx(margins)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_metric_of_all_texts_together_scores_a_mistake_by_itself(metric: str) -> None:
    task = KeptTask(name="t", version=1, type=TaskType.GENERATION, metrics=(metric,), majority="")
    gold = ["the man is in the green box", "a short one", "the man is in the green box"]
    said = ["the man is in the red box", "a short one", "no"]
    found = find_mistakes(TaskPredictions(task, [4, 5, 6], gold, said, [[]] * 3))
    assert [mistake.row for mistake in found] == [6, 4]
    assert found[1].margin == pytest.approx(1 - METRICS[metric](gold[:1], said[:1]))


def test_a_mistake_tells_both_answers() -> None:
    (found,) = find_mistakes(kept())
    assert (found.gold, found.predicted) == (0, 1)


def test_rows_without_scores_come_last() -> None:
    wild = replace(kept(), predicted=[0, 1, 1, 1], scores=[[], [0.0, 0.5], [0.0, 0.25], [0.0, 1.0]])
    found = find_mistakes(wild)
    assert [mistake.row for mistake in found] == [2, 11, 5]
    assert math.isnan(found[-1].margin)


def test_the_interval_of_a_metric_over_groups_draws_groups() -> None:
    # Of forty questions with three answers each, ten are all right: a binomial of 40, not of 120.
    right = [True] * 30 + [True, False, True] * 30
    task = KeptTask(
        name="multi",
        version=1,
        type=TaskType.CLASSIFICATION,
        metrics=("f1a", "em"),
        labels=("no", "yes"),
        majority=1,
    )
    kept = TaskPredictions(
        task,
        list(range(120)),
        [1] * 120,
        [int(hit) for hit in right],
        [[0.0, 1.0]] * 120,
        [str(row // 3) for row in range(120)],
    )
    found = score_run({"multi": kept}).tasks["multi"].metrics["em"]
    low, high = stats.binom(40, 0.25).interval(0.95)
    assert found.value == 0.25
    assert found.low == pytest.approx(low / 40, abs=0.026)
    assert found.high == pytest.approx(high / 40, abs=0.026)


def test_a_wrong_text_is_one_that_the_metric_does_not_forgive() -> None:
    mistakes = find_mistakes(answered_in_text())
    assert [(m.row, m.predicted, m.margin) for m in mistakes] == [(9, "Oslo", 1.0)]


def grouped(group: str, rows: int, hits: int, average: str = "rows") -> TaskPredictions:
    run = accuracy_run(rows, hits)
    return replace(run, task=run.task.model_copy(update={"group": group, "average": average}))


def test_a_mean_over_rows_weighs_tasks_by_them_within_groups_too() -> None:
    runs = {
        "a": grouped("stem", 100, 60),
        "b": grouped("stem", 300, 270),
        "c": grouped("other", 50, 10),
    }
    found = score_run(runs, resamples=4000)
    assert found.overall.average == "rows"
    assert found.overall.mean.value == pytest.approx(340 / 450)
    assert {name: group.names for name, group in found.groups.items()} == {
        "stem": ["a", "b"],
        "other": ["c"],
    }
    stem = found.groups["stem"]
    assert stem.mean.value == pytest.approx(330 / 400)
    assert stem.majority_mean == 1
    deviation = math.sqrt((100 * 0.6 * 0.4 + 300 * 0.9 * 0.1) / 400**2)
    assert (stem.mean.high - stem.mean.low) / 3.92 == pytest.approx(deviation, rel=0.1)


def test_one_task_that_counts_as_a_task_makes_the_mean_one_over_tasks() -> None:
    runs = {"a": grouped("stem", 100, 60), "b": grouped("stem", 300, 270, "tasks")}
    found = score_run(runs)
    assert found.overall.average == "tasks"
    assert found.overall.mean.value == pytest.approx((0.6 + 0.9) / 2)
    assert found.groups == {}  # one group of all tasks says nothing of its own


def test_two_runs_differ_by_the_same_weights() -> None:
    first = {"a": grouped("stem", 100, 60), "b": grouped("stem", 300, 270)}
    second = {"a": grouped("stem", 100, 50), "b": grouped("stem", 300, 273)}
    found = contrast_runs(first, second, resamples=200).mean
    assert (found.first, found.second) == pytest.approx((330 / 400, 323 / 400))
    assert found.difference.value == pytest.approx(7 / 400)
    assert found.difference.low <= 7 / 400 <= found.difference.high
    other = {"a": grouped("stem", 100, 50, "tasks"), "b": second["b"]}
    with pytest.raises(DataError, match=r"a: the two runs define .* average is 'rows'"):
        contrast_runs(first, other)
