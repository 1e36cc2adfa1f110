"""The metrics of the tasks, by the names task files use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from peml.tasks import Task, TaskType

__all__ = ["METRICS", "compute_metrics", "majority_prediction"]

Values = Sequence[Any]


def _accuracy(gold: Values, predicted: Values) -> float:
    return float(np.mean([g == p for g, p in zip(gold, predicted, strict=True)]))


def _f1(gold: Values, predicted: Values) -> float:
    return float(sk.f1_score(gold, predicted, pos_label=1, zero_division=0.0))


def _macro_f1(gold: Values, predicted: Values) -> float:
    return float(sk.f1_score(gold, predicted, average="macro", zero_division=0.0))


def _matthews(gold: Values, predicted: Values) -> float:
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        return 0.0  # what scikit-learn gives as well, but with a warning
    return float(sk.matthews_corrcoef(gold, predicted))


def _correlation(measure: Callable[..., Any]) -> Callable[[Values, Values], float]:
    def correlate(gold: Values, predicted: Values) -> float:
        # A constant has no correlation with anything; the field counts that as 0.
        if np.ptp(np.asarray(predicted, float)) == 0 or np.ptp(np.asarray(gold, float)) == 0:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            return float(measure(gold, predicted).statistic)

    return correlate


def _exact_match(gold: Values, predicted: Values) -> float:
    return _accuracy([_plain(g) for g in gold], [_plain(p) for p in predicted])


def _plain(text: str) -> str:
    return " ".join(str(text).lower().split())


def _rouge_l(gold: Values, predicted: Values) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        scorer.score(str(g), str(p))["rougeL"].fmeasure
        for g, p in zip(gold, predicted, strict=True)
    ]
    return float(np.mean(scores))


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": _accuracy,
    "exact_match": _exact_match,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _correlation(stats.pearsonr),
    "rouge_l": _rouge_l,
    "spearman": _correlation(stats.spearmanr),
}


def compute_metrics(task: Task, gold: Values, predicted: Values) -> dict[str, float]:
    """All metrics of a task, headline first.

    Args:
        task: Names the metrics.
        gold: Option indices, scores or texts.
        predicted: The same, as predicted.
    """
    return {name: METRICS[name](gold, predicted) for name in task.metrics}


def majority_prediction(task: Task, train_gold: Values) -> Any:
    """What the best constant guess is: the most frequent answer, or the mean score."""
    if task.type is TaskType.REGRESSION:
        return float(np.mean(train_gold))
    values, counts = np.unique(np.asarray(train_gold), return_counts=True)
    return values[counts.argmax()].item()
