"""Metrics against values worked out by hand, and the constant baseline."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from peml.errors import DataError
from peml.evaluation import refuse_unscorable
from peml.evaluation.metrics import (
    GROUP_SCORES,
    METRICS,
    compute_metrics,
    describe_classes,
    majority_prediction,
    score_constant,
)
from peml.tasks import Task
from peml.tasks.kinds import METRICS as DECLARED
from tests.tasks.examples import choice, generation, score, sentiment

GOLD = [1, 1, 1, 0, 0, 1]
PREDICTED = [
    1,
    1,
    0,
    0,
    1,
    1,
]  # 3 true positives, 1 false positive, 1 false negative, 1 true negative


@pytest.mark.parametrize(
    ("name", "gold", "predicted", "expected"),
    [
        ("accuracy", GOLD, PREDICTED, 4 / 6),
        ("f1", GOLD, PREDICTED, 2 * 3 / (2 * 3 + 1 + 1)),
        ("macro_f1", GOLD, PREDICTED, (0.75 + 0.5) / 2),
        ("matthews", GOLD, PREDICTED, (3 * 1 - 1 * 1) / (4 * 4 * 2 * 2) ** 0.5),
        ("macro_f1", [0, 1, 2], [0, 1, 1], (1 + 2 / 3 + 0) / 3),
        ("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 9.0], 7 / (2 * 26) ** 0.5),
        ("spearman", [1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 99.0], 1 - 6 * 2 / (4 * 15)),
        ("pearson", [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ("exact_match", ["The  cat", "a dog"], ["the cat ", "a fox"], 0.5),
        ("mae", [1.0, 2.0, 4.0], [1.5, 2.0, 1.0], 3.5 / 3),
        ("rmse", [1.0, 2.0, 4.0], [1.5, 2.0, 1.0], ((0.25 + 9) / 3) ** 0.5),
        ("r2", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], 1 - 1 / 2),
        ("r2", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], 0.0),
        # Of the four pairs of a positive and a negative two are in order, one is a tie.
        ("auroc", [1, 0, 1, 0], [2.0, 1.0, 0.5, 0.5], 2.5 / 4),
        ("auroc", [1, 1], [0.1, 0.2], 0.5),
        ("average_precision", [1, 0, 1, 0], [4.0, 3.0, 2.0, 1.0], (1 + 2 / 3) / 2),
        ("average_precision", [0, 0], [0.1, 0.2], 0.0),
        # Precisions of 1 to 4 words: 4/5, 2/4, 1/3 and, smoothed as by sacrebleu, 1/4.
        ("bleu", ["a b c d e"], ["a b c f e"], (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25),
        ("bleu", ["one two three four"], ["one two three four"], 1.0),
        ("chrf", ["the cat"], ["the cat"], 1.0),
        # Longest common subsequence 3 of 4 and 3 words: precision 1, recall 3/4.
        ("rouge_l", ["the red cat sleeps"], ["the cat sleeps"], 2 * 0.75 / 1.75),
    ],
)
def test_values_are_those_worked_out_by_hand(
    name: str, gold: list[Any], predicted: list[Any], expected: float
) -> None:
    assert METRICS[name](gold, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman", "f1"])
def test_a_constant_answer_counts_as_nothing_and_without_a_warning(name: str) -> None:
    gold = [0.5, 1.5, 2.5] if name in ("pearson", "spearman") else [0, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS[name](gold, [0] * 3) == 0
        assert METRICS[name]([0] * 3, [0] * 3) == 0
        if name != "f1":
            assert METRICS[name]([1] * 3, gold) == 0
        assert METRICS[name]([1][:1], [0][:1]) == 0


def test_a_nearly_constant_score_gives_a_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = METRICS["pearson"]([1.0, 2.0, 3.0], [1.0, 1.0 + 1e-15, 1.0])
    assert -1 <= value <= 1


def test_every_declared_metric_is_there() -> None:
    assert {*METRICS, *GROUP_SCORES} == set(DECLARED)


def test_the_headline_comes_first() -> None:
    task = sentiment(metrics=["f1", "accuracy", "matthews"])
    found = compute_metrics(task.metrics, GOLD, PREDICTED)
    assert list(found) == ["f1", "accuracy", "matthews"]
    assert found["f1"] == pytest.approx(0.75)


def test_label_one_is_ranked_by_how_much_higher_it_is_scored() -> None:
    task = sentiment(metrics=["accuracy", "auroc", "average_precision"])
    scores = [[0.0, 9.0], [100.0, 101.0], [5.0, 4.0], [3.0, 0.0]]
    found = compute_metrics(task.metrics, [1, 0, 1, 0], [1, 1, 0, 0], scores=scores)
    assert found["auroc"] == 3 / 4
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_every_metric_has_the_constant_that_is_best_for_it() -> None:
    task = sentiment(metrics=["accuracy", "f1", "auroc", "average_precision", "matthews"])
    gold = [0, 0, 0, 1]
    found = score_constant(task.metrics, gold, majority_prediction(task, gold))
    assert found == {
        "accuracy": 3 / 4,
        "f1": pytest.approx(2 * 1 / (4 + 1)),  # of label 1; label 0 everywhere would have 0
        "auroc": 0.5,
        "average_precision": 1 / 4,
        "matthews": 0.0,
    }


@pytest.mark.parametrize(
    ("metric", "only"),
    [
        ("auroc", 1),
        ("average_precision", 0),
        ("average_precision", 1),
        ("f1", 0),
        ("matthews", 1),
    ],
)
def test_a_metric_that_one_right_answer_leaves_undefined_is_told(metric: str, only: int) -> None:
    said = f"{metric} is undefined: the right answer of all 3 rows of FILE is"
    with pytest.raises(DataError, match=said):
        refuse_unscorable(sentiment(metrics=[metric]), [only] * 3, [0, 1, 2], "FILE")
    with pytest.warns(UserWarning, match=said):
        refuse_unscorable(sentiment(metrics=["accuracy", metric]), [only] * 3, [0, 1, 2], "FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse_unscorable(sentiment(metrics=[metric]), [0, 1, 0], [0, 1, 2], "FILE")


@pytest.mark.parametrize("metric", ["r2", "pearson", "spearman"])
def test_a_metric_of_scores_needs_two_different_right_ones(metric: str) -> None:
    task = score(metrics=[metric])
    with pytest.raises(DataError, match=rf"{metric} is undefined: .* all 3 rows of FILE is 0\.1"):
        refuse_unscorable(task, [0.1] * 3, [0, 1, 2], "FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gold in ([0.1, 0.2, 0.2], [5.0, 0.0, 0.0], [1e-4, 2e-4, 2e-4]):
            refuse_unscorable(task, gold, [0, 1, 2], "FILE")


@pytest.mark.parametrize(
    "labels", [["yes", "no"], ["Spam", "not_spam"], ["acceptable", "unacceptable"], ["1", "0"]]
)
def test_f1_of_a_negative_label_is_told(labels: list[str]) -> None:
    task = sentiment(labels=labels, metrics=["accuracy", "f1"])
    with pytest.warns(UserWarning, match=f"f1 takes '{labels[1]}', the second label, as the pos"):
        refuse_unscorable(task, [0, 1, 0], [0, 1, 2], "FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (
            {"labels": labels[::-1], "metrics": ["f1"]},
            {"labels": labels, "metrics": ["macro_f1", "matthews"]},
            {"labels": ["male", "female"], "metrics": ["f1"]},
        ):
            refuse_unscorable(sentiment(**other), [0, 1, 0], [0, 1, 2], "FILE")


def test_classes_are_described_by_right_and_predicted_label() -> None:
    found = describe_classes(("no", "yes", "maybe"), [0, 0, 1, 1], [0, 1, 1, 1])
    assert found.confusion == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found.f1 == pytest.approx([2 / 3, 4 / 5, 0.0])


def test_rows_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        METRICS["accuracy"]([1, 0], [1])


@pytest.mark.parametrize(
    ("task", "gold", "expected"),
    [
        (choice(metrics=["span_em"]), [("b", "a"), ("b",), ("c",)], "b"),
        (sentiment(), [0, 1, 1], 1),
        (sentiment(), [1, 0], 0),
        (choice(), [2, 2, 1, 0], 2),
        (score(), [1.0, 2.0, 4.5], 2.5),
        (generation(), ["a", "b", "b"], "b"),
    ],
)
def test_majority_is_the_best_constant(task: Task, gold: list[Any], expected: Any) -> None:
    best = majority_prediction(task, gold)
    assert best == expected
    assert type(best) is type(expected)
