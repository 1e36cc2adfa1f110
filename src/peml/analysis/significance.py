"""Whether two runs' difference on the same rows could be chance: exact and permutation tests.

Under the null hypothesis the two runs are equally good, so on each row their predictions could be
swapped. Both tests compute how often such swaps give a difference as large as the observed one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peml.analysis.scorers import standardised, weighted_scorer
from peml.evaluation.metrics import ROW_SCORES
from peml.tasks import OF_SCORES

Array = NDArray[np.float64]
Values = Sequence[Any]
Discordant = tuple[int, int]
"""How many rows only the first run has right, and how many only the second."""

_CELLS_AT_ONCE = 1_000_000  # rows times permutations in memory at a time; 8 MB per array
_ROUNDING = 1e-12


def discordant_rows(metric: str, gold: Values, first: Values, second: Values) -> Discordant | None:
    """Counts the rows that only one run has right; None if the metric gives partial credit."""
    if metric not in ROW_SCORES:
        return None
    one, two = (np.asarray(ROW_SCORES[metric](gold, run)) for run in (first, second))
    if not np.isin([one, two], (0.0, 1.0)).all():
        return None
    return int((one > two).sum()), int((two > one).sum())


def mcnemar_test(discordant: Discordant) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947, with binomial probabilities)."""
    rows = sum(discordant)
    return float(stats.binomtest(discordant[0], rows, 0.5).pvalue) if rows else 1.0


def permuted_differences(
    metric: str,
    gold: Values,
    first: Values,
    second: Values,
    permutations: int,
    random: np.random.Generator,
) -> Array:
    """Differences of the metric after swapping the predictions on random rows, (permutations,).

    If the metric ignores the scale of predictions, both runs are brought to one scale first. The
    two runs' rows are concatenated; a permuted run takes each row from one of the two halves, which
    a weighted scorer expresses as how often each row counts (once or not at all).
    """
    predicted = [*levelled(metric, first), *levelled(metric, second)]
    score = weighted_scorer(metric, [*gold, *gold], [predicted])
    size = max(1, _CELLS_AT_ONCE // (2 * len(gold)))
    differences = []
    for start in range(0, permutations, size):
        shape = (min(size, permutations - start), len(gold))
        swapped = random.integers(0, 2, shape).astype(np.float64)
        unswapped = 1.0 - swapped
        one, two = (
            score(np.concatenate(halves, axis=1))[:, 0]
            for halves in ((unswapped, swapped), (swapped, unswapped))
        )
        differences.append(one - two)
    return np.concatenate(differences)


def levelled(metric: str, predicted: Values) -> Values:
    """Predictions on a scale that two runs share, without changing the metric.

    A correlation or a ranking ignores the scale, so two equally good runs may use different ones.
    Swapping their raw predictions would mix the scales and make nearly any difference look like
    chance.
    """
    if metric == "pearson":
        return list(standardised(predicted).tolist())
    if metric == "spearman" or metric in OF_SCORES:
        return list(stats.rankdata(predicted).tolist())
    return predicted


def tail_share(value: float, draws: Array) -> float:
    """Two-sided p-value: the share of draws at least as far from 0, counting the value itself.

    NaN if the value is not finite.
    """
    if not np.isfinite(value):
        return float("nan")
    beyond = np.abs(draws) >= abs(value) - _ROUNDING
    return float((1 + beyond.sum()) / (1 + len(draws)))
