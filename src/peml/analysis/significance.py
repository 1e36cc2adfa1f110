"""Whether two runs' difference on the same rows could be chance: exact and permutation tests.

Under the null hypothesis it doesn't matter which run said what: on each row the two predictions
could be swapped. Both tests ask how often such swaps give a difference as large as the one found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peml.analysis.scorers import standardised, weighted_scorer
from peml.evaluation.metrics import ROW_SCORES

Array = NDArray[np.float64]
Values = Sequence[Any]
Discordant = tuple[int, int]
"""How many rows only the first run has right, and how many only the second."""

_CELLS_AT_ONCE = 1_000_000  # rows times permutations held at a time; 8 MB an array
_ROUNDING = 1e-12


def discordant_rows(metric: str, gold: Values, first: Values, second: Values) -> Discordant | None:
    """Counts the rows that one run alone has right; None where rows aren't simply right or wrong.

    Args:
        metric: Name of the metric.
        gold: Right answers, one per row.
        first: Predictions of a run.
        second: Predictions of the other.
    """
    if metric not in ROW_SCORES:
        return None
    one, two = (np.asarray(ROW_SCORES[metric](gold, said)) for said in (first, second))
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

    Where the metric doesn't see the scale of predictions, they are brought to one scale first.
    The two runs' rows are laid end to end. A permuted run is then a choice of one of the two
    halves for each row, so it is a matter of how often each row counts (once or not at all).

    Args:
        metric: Name of the metric.
        gold: Right answers, one per row.
        first: Predictions of a run.
        second: Predictions of the other.
        permutations: Number of draws.
        random: Where they come from.
    """
    said = [*levelled(metric, first), *levelled(metric, second)]
    score = weighted_scorer(metric, [*gold, *gold], [said])
    size = max(1, _CELLS_AT_ONCE // (2 * len(gold)))
    found = []
    for start in range(0, permutations, size):
        shape = (min(size, permutations - start), len(gold))
        swapped = random.integers(0, 2, shape).astype(np.float64)
        kept = 1.0 - swapped
        one, two = (
            score(np.concatenate(halves, axis=1))[:, 0]
            for halves in ((kept, swapped), (swapped, kept))
        )
        found.append(one - two)
    return np.concatenate(found)


def levelled(metric: str, predicted: Values) -> Values:
    """Predictions on a scale that two runs share, without a change of the metric.

    A correlation is the same whatever the scale, and so two equally good runs may have different
    ones. Swapping their raw predictions would mix the scales and call nearly any difference chance.
    """
    if metric == "pearson":
        return list(standardised(predicted).tolist())
    if metric == "spearman":
        return list(stats.rankdata(predicted).tolist())
    return predicted


def tail_share(value: float, draws: Array) -> float:
    """Two-sided p-value: the share of draws at least as far from 0, the value itself counted in.

    Not a number where the value is none.
    """
    if not np.isfinite(value):
        return float("nan")
    beyond = np.abs(draws) >= abs(value) - _ROUNDING
    return float((1 + beyond.sum()) / (1 + len(draws)))
