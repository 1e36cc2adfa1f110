"""The learning-rate grid: one factor a method and suite, chosen on the development split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peml.comparison.cells import Cell

__all__ = ["Choice", "GridScore", "choose_factor", "choose_factors"]


@dataclass(frozen=True)
class GridScore:
    """What one run of the grid came to.

    Attributes:
        cell: The run; its key is the factor.
        mean: Development mean; None if it isn't there or not a number.
        reason: Why it failed; empty if it didn't.
    """

    cell: Cell
    mean: float | None
    reason: str


@dataclass(frozen=True)
class Choice:
    """The factor of a method on a suite, and what tuning trials chose beside it.

    Attributes:
        factor: What its learning rates are multiplied with; None while the grid isn't done, and
            if all of it failed.
        grid: The runs it was chosen from.
        reason: Why there is none.
        values: Chosen by tuning trials, by path into the run config.
        trials: How many there were.
        seconds: What they took.
    """

    factor: float | None
    grid: tuple[GridScore, ...] = ()
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0

    @property
    def chosen(self) -> dict[str, Any]:
        """Everything that was chosen, by path; empty while the choice isn't made."""
        if self.factor is None:
            return {}
        return {"training.learning_rate_factor": self.factor, **self.values}


def choose_factor(grid: Sequence[Cell]) -> Choice:
    """The factor of the best development mean; of equal ones the nearest to 1."""
    scores = tuple(_score(cell) for cell in grid)
    if any(score.mean is None and not score.reason for score in scores):
        return Choice(None, scores, "the learning-rate grid is not finished")
    best = max(
        (score for score in scores if score.mean is not None),
        key=lambda score: (score.mean, -abs(math.log(score.cell.key))),
        default=None,
    )
    if best is None:
        return Choice(None, scores, f"no run of the learning-rate grid worked: {scores[0].reason}")
    return Choice(best.cell.key, scores)


def choose_factors(
    grid: Sequence[Cell], places: Sequence[tuple[str, str]], fixed: float
) -> dict[tuple[str, str], Choice]:
    """The choice of every suite and label.

    Args:
        grid: All runs of the grid; empty where none is run.
        places: Suites and labels.
        fixed: The factor where there is no grid.
    """
    if not grid:
        return {place: Choice(fixed) for place in places}
    return {
        place: choose_factor([cell for cell in grid if (cell.suite, cell.label) == place])
        for place in places
    }


def _score(cell: Cell) -> GridScore:
    results = cell.results()
    if results is None:
        return GridScore(cell, None, cell.failure() or "")
    if not math.isfinite(results["mean"]):
        return GridScore(cell, None, "its development mean is not a number")
    return GridScore(cell, results["mean"], "")
