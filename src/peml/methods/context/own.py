"""Trains on the rows that a context shows; each of them sees only other ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from peml.data.batch import TaskBatch
from peml.data.solved import SolvedRows
from peml.prefix.prefix import Prefix
from peml.tasks import Shots, Task, TaskRenderer
from peml.tasks.template import BETWEEN

Tokenise = Callable[[str], list[int]]
Compute = Callable[[int, tuple[str, ...]], Prefix]


class OwnRows:
    """The train rows that are demonstrations in their own task's context.

    Args:
        tasks: The tasks with their demonstrations.
        solved: Finds the train rows that are demonstrations.
        tokenise: Returns a context's tokens.
        compute: Computes a task's context with other demonstrations; None: a demonstration's
            positions are removed from the whole context.
    """

    def __init__(
        self, tasks: Sequence[Task], solved: SolvedRows, tokenise: Tokenise, compute: Compute | None
    ) -> None:
        self._tasks = tasks
        self._unseen = [solved.unseen(task) for task in range(len(tasks))]
        self._compute = compute
        self._spans = [] if compute else [find_spans(task, tokenise) for task in tasks]
        self._lengths = [len(tokenise(TaskRenderer(task).context())) for task in tasks]

    def leave_out(
        self, batch: TaskBatch, held: Mapping[int, Prefix]
    ) -> tuple[dict[int, Prefix], Callable[[int], Tensor]]:
        """Gives each row that its task's context shows a context without it.

        One row of each other label is missing there too; see `SolvedRows.unseen`.

        Args:
            batch: The rows.
            held: Task id -> its whole context.

        Returns:
            Contexts by id, of tasks and of single rows; and a function from a number of sequences
            to their ids.
        """
        ids, contexts = batch.task_ids, dict(held)
        for example, (task, row) in enumerate(batch.known.examples):
            unseen = self._unseen[task].get(row)
            if unseen is not None:
                number = len(self._tasks) + example
                contexts[number] = self._without(task, unseen, held[task])
                ids = ids.masked_fill(batch.groups == example, number)
        return contexts, partial(_all, ids)

    def _without(self, task: int, places: Collection[int], whole: Prefix) -> Prefix:
        texts = cast(tuple[str, ...], self._tasks[task].shots.examples)
        others = tuple(text for place, text in enumerate(texts) if place not in places)
        if not others:
            return replace(whole, tensor=whole.tensor[:, :, :, :0])
        if self._compute is not None:
            return self._compute(task, others)
        assert whole.length == self._lengths[task]  # otherwise the positions would differ
        left = torch.ones(whole.length, dtype=torch.bool)
        for place in places:
            left[slice(*self._spans[task][place])] = False
        return whole.at(left)


def find_spans(task: Task, tokenise: Tokenise) -> list[tuple[int, int]]:
    """Begin and end (exclusive) of each demonstration's tokens in its task's context.

    Tokens shared with the text around a demonstration count as its own.
    """
    texts = cast(tuple[str, ...], task.shots.examples)
    tokens = tokenise(TaskRenderer(task).context())
    spans = []
    for place in range(len(texts)):
        shots = {"shots": Shots(examples=texts[:place])}
        before = TaskRenderer(task.model_copy(update=shots)).context()
        after = "".join(BETWEEN + text for text in texts[place + 1 :])
        begin = _common(tokens, tokenise(before)) if before else 0
        end = len(tokens) - (_common(tokens[::-1], tokenise(after)[::-1]) if after else 0)
        spans.append((begin, end))
    return spans


def _common(some: Sequence[int], others: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(some), len(others)))


def _all(ids: Tensor, rows: int) -> Tensor:
    """The ids, for a forward pass over exactly ``rows`` sequences."""
    assert rows == len(ids)
    return ids
