"""Means over tasks: the weight of each task, and which tasks belong to each group."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from peml.tasks import Averaging


def common_average(averages: Iterable[Averaging]) -> Averaging:
    """Whether a mean over tasks weighs rows equally (if every task says so) or tasks."""
    return "rows" if set(averages) == {"rows"} else "tasks"


def mean_weights(averages: Sequence[Averaging], rows: Sequence[int]) -> NDArray[np.float64]:
    """The weight of each task in their mean, (tasks,), with sum 1.

    `rows` are the numbers of rows that each task was scored on.
    """
    by_task = common_average(averages) == "tasks"
    weights = np.ones(len(rows)) if by_task else np.asarray(rows, np.float64)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def weighted_mean(values: Sequence[float], weights: NDArray[np.float64]) -> float:
    """The mean of the tasks' values, (tasks,), with weights whose sum is 1."""
    return float(np.asarray(values, np.float64) @ weights)


def gather_groups(groups: Mapping[str, str | None]) -> dict[str, list[str]]:
    """The tasks of each group, in their order; without a group that holds all tasks."""
    members: dict[str, list[str]] = {}
    for task, group in groups.items():
        if group is not None:
            members.setdefault(group, []).append(task)
    return {group: names for group, names in members.items() if len(names) < len(groups)}
