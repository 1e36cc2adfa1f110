"""Shares a budget of parameters between a LoRA and the prefix beside it."""

from collections.abc import Iterable
from typing import TypeVar

from peml.methods.lora.settings import LoraSettings
from peml.methods.shape import ModelShape
from peml.prefix.size import SizeRange

TOLERANCE = 0.05
"""Distance from a budget at which it counts as met, as a share of the budget."""

_Settings = TypeVar("_Settings")


def fit_beside_lora(
    prefixes: Iterable[tuple[_Settings, SizeRange]],
    lora: LoraSettings,
    shape: ModelShape,
    budget: int,
) -> tuple[_Settings, LoraSettings]:
    """Finds a prefix and a LoRA that meet a budget together.

    The LoRA gets another rank; alpha / r stays. ``prefixes`` are settings with their sizes, the
    best first.

    The budget is met if the sum is within `TOLERANCE` for every network that a search of the prefix
    may find; the first such prefix is taken. Otherwise it is one whose mean is within the
    tolerance, and whose farthest network is as close as possible. If there is none, it is the pair
    with the closest mean.
    """
    room = TOLERANCE * budget
    # ((whether the mean misses, distance), settings, LoRA); the smallest is the best.
    best: tuple[tuple[bool, float], _Settings, LoraSettings] | None = None
    for settings, size in prefixes:
        fitted = lora.resized(shape, max(1, round(budget - size.mean)))
        total = size.shifted(fitted.count_parameters(shape))
        if total.distance(budget) <= room:
            return settings, fitted
        off = abs(total.mean - budget)
        rating = (True, off) if off > room else (False, total.distance(budget))
        if best is None or rating < best[0]:
            best = rating, settings, fitted
    assert best is not None, "there is at least one prefix"
    return best[1], best[2]
