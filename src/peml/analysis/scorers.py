"""Each metric as a function of how often each row counts, for resampling.

Resamples are stored as how often each row was drawn, (resamples, rows). Every metric then becomes
arithmetic on weighted sums, so that thousands of resamples take seconds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peml.evaluation.metrics import CORPUS_METRICS, ROW_SCORES, corpus_metric

Array = NDArray[np.float64]
Values = Sequence[Any]
Scorer = Callable[[Array], Array]
"""How often each row was drawn, (resamples, rows) -> the metric of each run, (resamples, runs)."""


def weighted_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    """A metric as a function of how often each row counts.

    All resamples, (resamples, rows), have to draw the same number of rows.
    """
    if metric in ROW_SCORES:
        scores = np.array([ROW_SCORES[metric](gold, run) for run in runs]).T  # (rows, runs)
        return lambda counts: counts @ scores / counts[0].sum()
    return _SCORERS[metric](metric, gold, runs)


def _label_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    """F1 and Matthews' correlation, from how often each label is right, predicted, and both."""
    answers = np.array([gold, *runs])  # (1 + runs, rows)
    labels = [1] if metric in ("f1", "f1a") else np.unique(answers)
    measure = _matthews if metric == "matthews" else _mean_f1

    def score(counts: Array) -> Array:
        sums = np.empty((len(labels), len(counts), 1 + 2 * len(runs)))
        for label, label_sums in zip(labels, sums, strict=True):  # one by one, to save memory
            is_label = answers == label
            columns = np.concatenate([is_label, is_label[1:] & is_label[0]])
            label_sums[...] = counts @ columns.T.astype(np.float64)
        right, predicted, hits = np.split(sums, [1, 1 + len(runs)], axis=2)
        return measure(right, predicted, hits)

    return score


def _mean_f1(right: Array, predicted: Array, hits: Array) -> Array:
    """Mean over the labels that occur in a resample, right or predicted, as scikit-learn's."""
    occurrences = right + predicted
    present = (occurrences > 0).sum(axis=0)
    return _divide(_divide(2 * hits, occurrences).sum(axis=0), present)


def _matthews(right: Array, predicted: Array, hits: Array) -> Array:
    """For any number of labels (Gorodkin 2004); 0 for a constant answer."""
    rows = right.sum(axis=0)
    covariance: Array = hits.sum(axis=0) * rows - (right * predicted).sum(axis=0)
    spread = np.sqrt((rows**2 - (right**2).sum(axis=0)) * (rows**2 - (predicted**2).sum(axis=0)))
    return _divide(covariance, spread)


def _divide(numbers: Array, by: Array, otherwise: float = 0.0) -> Array:
    """Quotients, and ``otherwise`` where a divisor is not positive."""
    quotients: Array = np.divide(numbers, by, out=np.full_like(numbers, otherwise), where=by > 0)
    return quotients


def _pearson_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    truth, *answers = (standardised(values) for values in (gold, *runs))
    predicted = np.stack(answers)  # (runs, rows)
    columns = np.concatenate([[truth, truth**2], predicted, predicted**2, predicted * truth]).T
    parts = np.cumsum([1, 1, len(runs), len(runs)])

    def score(counts: Array) -> Array:
        x, xx, y, yy, xy = np.split(counts @ columns / counts[0].sum(), parts, axis=1)
        return _correlation(xy - x * y, xx - x**2, yy - y**2)

    return score


def standardised(values: Values) -> Array:
    """Values scaled to mean 0 and variance 1, so that sums of squares lose no digits."""
    numbers = np.asarray(values, np.float64)
    if np.ptp(numbers) == 0:
        return np.zeros_like(numbers)
    centered = numbers - numbers.mean()
    scaled: Array = centered / centered.std()
    return scaled


def _correlation(covariance: Array, first: Array, second: Array) -> Array:
    """Correlation; 0 if a variance is 0 up to rounding."""
    constant = (first < 1e-12) | (second < 1e-12)
    product = np.where(constant, 1.0, first * second)
    return np.where(constant, 0.0, covariance / np.sqrt(product))


def _spearman_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    groups = [
        np.unique(np.asarray(values, np.float64), return_inverse=True)[1]
        for values in (gold, *runs)
    ]

    def ranks(counts: Array, group: NDArray[np.intp]) -> Array:
        """Mean ranks within each resample, less their mean, over the number of rows."""
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(group.max() + 1))
        sizes = np.add.reduceat(counts[:, order], starts, axis=1)  # of ties
        rows = counts[0].sum()
        middle = np.cumsum(sizes, axis=1) - sizes / 2 - rows / 2
        centered: Array = middle[:, group] / rows
        return centered

    def score(counts: Array) -> Array:
        rows = counts[0].sum()
        truth = ranks(counts, groups[0])
        spread = np.einsum("br,br,br->b", counts, truth, truth) / rows
        columns = []
        for group in groups[1:]:
            predicted = ranks(counts, group)
            covariance = np.einsum("br,br,br->b", counts, truth, predicted) / rows
            variance = np.einsum("br,br,br->b", counts, predicted, predicted) / rows
            columns.append(_correlation(covariance, spread, variance))
        return np.stack(columns, axis=1)

    return score


def _error_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    """Root mean squared error, and R2."""
    truth = np.asarray(gold, np.float64)
    squares = np.stack([(np.asarray(run, np.float64) - truth) ** 2 for run in runs], axis=1)
    if metric == "rmse":
        return lambda counts: np.sqrt(counts @ squares / counts[0].sum())
    centered = truth - truth.mean()

    def r2(counts: Array) -> Array:
        spread = (counts @ centered**2 - (counts @ centered) ** 2 / counts[0].sum())[:, None]
        error: Array = counts @ squares
        varies = spread > 1e-12
        # As scikit-learn for constant right answers: 1 if all predictions are right, else 0.
        perfect = (error == 0).astype(float)
        return np.where(varies, 1 - error / np.where(varies, spread, 1.0), perfect)

    return r2


def _ranking_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    """Area under the ROC curve, and average precision; ``runs`` hold margins."""
    positive = np.asarray(gold, np.float64)
    measure = _auroc if metric == "auroc" else _average_precision
    ranked = []
    for run in runs:
        values = np.asarray(run, np.float64)
        order = np.argsort(-values, kind="stable")
        first = np.flatnonzero(np.diff(values[order], prepend=np.inf))  # of each set of ties
        ranked.append((order, first))

    def score(counts: Array) -> Array:
        columns = []
        for order, first in ranked:
            weights = counts[:, order]
            hits = np.add.reduceat(weights * positive[order], first, axis=1)
            columns.append(measure(hits, np.add.reduceat(weights, first, axis=1) - hits))
        return np.stack(columns, axis=1)

    return score


def _auroc(hits: Array, others: Array) -> Array:
    """From positives and negatives at each score, highest first, (resamples, scores)."""
    above = np.cumsum(hits, axis=1) - hits / 2  # a tie counts half
    pairs = hits.sum(axis=1) * others.sum(axis=1)
    return _divide((above * others).sum(axis=1), pairs, otherwise=0.5)


def _average_precision(hits: Array, others: Array) -> Array:
    positives, rows = np.cumsum(hits, axis=1), np.cumsum(hits + others, axis=1)
    return _divide((_divide(positives, rows) * hits).sum(axis=1), hits.sum(axis=1))


def _corpus_scorer(metric: str, gold: Values, runs: Sequence[Values]) -> Scorer:
    """BLEU and chrF, from sacrebleu's counts per row."""
    measures = [corpus_metric(metric) for _ in runs]
    statistics = [
        np.asarray(measure._extract_corpus_statistics(list(run), [list(gold)]), np.float64)
        for measure, run in zip(measures, runs, strict=True)
    ]

    def score(counts: Array) -> Array:
        columns = [
            [measure._compute_score_from_stats(sums.tolist()).score / 100 for sums in counts @ rows]
            for measure, rows in zip(measures, statistics, strict=True)
        ]
        return np.array(columns).T

    return score


_SCORERS: dict[str, Callable[[str, Values, Sequence[Values]], Scorer]] = {
    **dict.fromkeys(CORPUS_METRICS, _corpus_scorer),
    "auroc": _ranking_scorer,
    "average_precision": _ranking_scorer,
    "f1": _label_scorer,
    "f1a": _label_scorer,
    "macro_f1": _label_scorer,
    "matthews": _label_scorer,
    "pearson": _pearson_scorer,
    "r2": _error_scorer,
    "rmse": _error_scorer,
    "spearman": _spearman_scorer,
}
