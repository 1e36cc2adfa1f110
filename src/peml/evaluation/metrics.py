"""The metrics of the tasks, by the names task files use."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from peml.evaluation.texts import number_hit, option_hit, rouge, span_em, span_f1
from peml.tasks import Task, TaskType

__all__ = ["GROUP_SCORES", "METRICS", "ROW_SCORES", "compute_metrics", "majority_prediction"]

Values = Sequence[Any]


class Scored(Protocol):
    """A task as far as its metrics go, such as the one a predictions file is of."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, headline first."""


def _hits(gold: Values, predicted: Values) -> list[float]:
    return [float(g == p) for g, p in zip(gold, predicted, strict=True)]


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


def _exact_hits(gold: Values, predicted: Values) -> list[float]:
    return _hits([_plain(g) for g in gold], [_plain(p) for p in predicted])


def _plain(text: str) -> str:
    return " ".join(str(text).lower().split())


def _each(score: Callable[[Any, Any], float]) -> Callable[[Values, Values], list[float]]:
    return lambda gold, predicted: [score(g, p) for g, p in zip(gold, predicted, strict=True)]


def _all_right(gold: Values, predicted: Values, groups: Sequence[Hashable]) -> list[float]:
    right: dict[Hashable, float] = {}
    for g, p, group in zip(gold, predicted, groups, strict=True):
        right[group] = right.get(group, 1.0) * (g == p)
    return list(right.values())


def _mean_of(
    rows: Callable[[Values, Values], list[float]],
) -> Callable[[Values, Values], float]:
    return lambda gold, predicted: float(np.mean(rows(gold, predicted)))


ROW_SCORES: dict[str, Callable[[Values, Values], list[float]]] = {
    "accuracy": _hits,
    "exact_match": _exact_hits,
    "number_match": _each(number_hit),
    "option_match": _each(option_hit),
    "rouge_1": rouge("rouge1"),
    "rouge_2": rouge("rouge2"),
    "rouge_l": rouge("rougeL"),
    "span_em": _each(span_em),
    "span_f1": _each(span_f1),
}
"""The metrics that are a mean over rows: what each row scores."""

METRICS: dict[str, Callable[[Values, Values], float]] = {
    **{name: _mean_of(rows) for name, rows in ROW_SCORES.items()},
    "f1": _f1,
    "f1a": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
}


GROUP_SCORES: dict[str, Callable[[Values, Values, Sequence[Hashable]], list[float]]] = {
    "em": _all_right
}
"""The metrics that are a mean over groups of rows: what each group scores."""


def compute_metrics(
    task: Task | Scored, gold: Values, predicted: Values, groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """All metrics of a task, headline first.

    Args:
        task: Names the metrics.
        gold: Option indices, scores or texts.
        predicted: The same, as predicted.
        groups: The group of each row; needed where a metric is over groups.
    """
    return {
        name: float(np.mean(GROUP_SCORES[name](gold, predicted, groups or ())))
        if name in GROUP_SCORES
        else METRICS[name](gold, predicted)
        for name in task.metrics
    }


def majority_prediction(task: Task, gold: Iterable[Any]) -> Any:
    """What the best constant guess is: the most frequent answer, or the mean score.

    Args:
        task: The task.
        gold: Right answers, one or more: of the train rows, or of the reported rows where a task
            has no others.
    """
    if task.type is TaskType.REGRESSION:
        return float(np.fromiter(gold, dtype=np.float64).mean())
    # of several right texts, the one that is trained on; of equally frequent answers, the lowest
    counts = Counter(answer[0] if isinstance(answer, tuple) else answer for answer in gold)
    return min(counts, key=lambda answer: (-counts[answer], answer))
