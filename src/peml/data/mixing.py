"""How many rows of each task an epoch draws, and which.

Sources: proportional and capped mixing as in T5; temperature mixing as in seqio, which caps
before it takes the power.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from peml.settings import Settings

__all__ = ["MixingSettings", "draw_rows", "rows_per_epoch"]

Indices = np.ndarray[Any, np.dtype[np.int64]]


class MixingSettings(Settings):
    """The share of each task in an epoch."""

    strategy: Literal["proportional", "temperature", "uniform"] = Field(
        "proportional",
        description="proportional: every row once an epoch; temperature: shares proportional to "
        "min(rows, cap)^(1/temperature); uniform: equal shares.",
    )
    temperature: float = Field(2.0, description="Flattens the shares; 1 is proportional.", ge=1)
    cap: int | None = Field(
        None, description="Rows a task counts for at most, applied before the power.", ge=1
    )


def rows_per_epoch(sizes: Sequence[int], settings: MixingSettings) -> list[int]:
    """Rows drawn from each task in one epoch.

    The epoch is as long as the (capped) rows together; shares are rounded by largest remainder,
    and every task gets at least one row.

    Args:
        sizes: Train rows of each task.
        settings: The mixing strategy.
    """
    capped = np.array([min(size, settings.cap or size) for size in sizes], dtype=np.float64)
    if settings.strategy == "proportional":
        return [int(count) for count in capped]
    power = 0.0 if settings.strategy == "uniform" else 1 / settings.temperature
    shares = capped**power
    exact = shares / shares.sum() * capped.sum()
    counts = np.floor(exact).astype(int)
    missing = int(capped.sum()) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return [max(1, int(count)) for count in counts]


def draw_rows(task_id: int, size: int, count: int, epoch: int, seed: int) -> Indices:
    """The rows of one task in one epoch, (count,).

    Epochs walk through an endless row of seeded permutations, so a row comes again only after
    all others came, also across epochs; nothing but the arguments decides the result.
    """
    first, last = epoch * count, (epoch + 1) * count
    rounds = range(first // size, (last - 1) // size + 1)
    laps = [np.random.default_rng((seed, task_id, lap)).permutation(size) for lap in rounds]
    offset = first - rounds.start * size
    return np.concatenate(laps)[offset : offset + count]
