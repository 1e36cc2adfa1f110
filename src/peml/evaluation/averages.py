"""Means over tasks: what each task weighs, and which tasks a group's mean is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from peml.tasks import Averaging


def common_average(averages: Iterable[Averaging]) -> Averaging:
    """What counts alike in a mean over tasks: rows where all of them say so, else tasks."""
    return "rows" if set(averages) == {"rows"} else "tasks"


def mean_weights(averages: Sequence[Averaging], rows: Sequence[int]) -> NDArray[np.float64]:
    """What each task weighs in their mean, (tasks,); adds up to 1.

    Args:
        averages: Each task's ``average``.
        rows: Rows each task was scored on.
    """
    alike = common_average(averages) == "tasks"
    weights = np.ones(len(rows)) if alike else np.asarray(rows, np.float64)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def weighted_mean(values: Sequence[float], weights: NDArray[np.float64]) -> float:
    """The mean of the tasks' values, (tasks,), under weights that add up to 1."""
    return float(np.asarray(values, np.float64) @ weights)


def gather_groups(groups: Mapping[str, str | None]) -> dict[str, list[str]]:
    """The tasks of each group, in their order; a group of all tasks is none.

    Args:
        groups: Each task's group, if it has one.
    """
    members: dict[str, list[str]] = {}
    for task, group in groups.items():
        if group is not None:
            members.setdefault(group, []).append(task)
    return {group: names for group, names in members.items() if len(names) < len(groups)}
