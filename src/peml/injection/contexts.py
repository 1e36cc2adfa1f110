"""The contexts of tasks: keys and values that all rows of a task share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from peml.injection.shared import Shared
from peml.prefix.prefix import Prefix

ALL_TASKS = -1
"""The task id of a context that all rows share."""


@dataclass(frozen=True, slots=True)
class _Order:
    """The rows of a batch by task.

    Attributes:
        tasks: Task and number of rows of each group of neighbours.
        order: Order of rows that puts a task's rows side by side; None if they are already.
        back: The reverse order.
    """

    tasks: tuple[tuple[int, int], ...]
    order: Tensor | None = None
    back: Tensor | None = None


class Contexts:
    """Each task's context, for batches that mix tasks.

    `by_task` has a context by task id, or one for `ALL_TASKS`; other tasks have none. `task_ids` is
    as `peml.models.TaskRouting.rows`.
    """

    def __init__(self, by_task: Mapping[int, Prefix], task_ids: Callable[[int], Tensor]) -> None:
        self.by_task = dict(by_task)
        self._task_ids = task_ids
        self._last: tuple[Tensor, _Order] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for ``copy.deepcopy`` and pickle, which can't copy tensors inside a graph."""
        held = {task: prefix.detached() for task, prefix in self.by_task.items()}
        return {**self.__dict__, "by_task": held, "_last": None}

    def of(self, task: int) -> Prefix | None:
        """The context of a task, or None."""
        return self.by_task.get(ALL_TASKS, self.by_task.get(task))

    def reach(self, layer: int) -> bool:
        """Whether a layer sees any context."""
        return any(prefix.active[layer] for prefix in self.by_task.values())

    def gate(self, layer: int) -> Tensor | None:
        """The share of attention with contexts in a layer, see `Prefix`; None: all of it."""
        gates = next((prefix.gates for prefix in self.by_task.values()), None)
        return None if gates is None else gates[layer]

    def order(self, rows: int) -> _Order:
        """The order that puts tasks' rows side by side; cached for the layers of a pass."""
        if ALL_TASKS in self.by_task:
            return _Order(((ALL_TASKS, rows),))
        ids = self._task_ids(rows)
        if self._last is not None and self._last[0] is ids:
            return self._last[1]
        found = _order(ids.tolist(), ids)
        self._last = (ids, found)
        return found

    def layer(self, index: int, order: _Order, like: Tensor) -> list[Shared]:
        """A layer's contexts in the order of the rows, in the data type of ``like``."""
        shared = []
        for task, rows in order.tasks:
            prefix = self.by_task.get(task)
            pair = None if prefix is None else prefix.layer(index)
            moved = () if pair is None else (pair[0].to(like), pair[1].to(like))
            shared.append(Shared(rows, *moved))
        return shared


def _order(tasks: list[int], ids: Tensor) -> _Order:
    places = sorted(range(len(tasks)), key=tasks.__getitem__)
    runs: dict[int, int] = {}
    for place in places:
        runs[tasks[place]] = runs.get(tasks[place], 0) + 1
    if places == list(range(len(tasks))):
        return _Order(tuple(runs.items()))
    order = ids.new_tensor(places)
    return _Order(tuple(runs.items()), order, order.argsort())
