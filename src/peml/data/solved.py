"""Draws solved train rows, to be shown in front of the rows of a batch."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from random import Random
from typing import Literal, cast

import numpy as np
import torch

from peml.data.batching import BatchStream
from peml.data.rows import Indices
from peml.data.sources import TaskData
from peml.data.splits import in_turn, members_of
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, TaskRenderer

Draw = Literal["epoch", "step"]
"""How long the same rows are shown: a step or an epoch."""


class SolvedRows:
    """The train rows of all tasks, each with its answer."""

    def __init__(self, data: Sequence[TaskData], stream: BatchStream, epochs: int) -> None:
        self._data = data
        self._stream = stream
        self._epochs = epochs
        self._members: dict[tuple[int, bool], list[Indices]] = {}
        self._orders: dict[int, tuple[tuple[int, int, bool], list[Indices]]] = {}

    def refuse_too_few(self, count: int) -> None:
        """Refuses to draw so many rows that a batch of the run would leave too few.

        Raises:
            DataError: A task has fewer train rows than ``count`` and the rows of one batch.
        """
        most: Counter[int] = Counter()
        for epoch in range(self._epochs):
            for numbers in self._stream.plan(epoch):
                tasks, _ = self._stream.locate(np.unique(numbers))
                most |= Counter(tasks.tolist())
        for task, together in sorted(most.items()):
            self._refuse_too_few(task, count, together)

    def _refuse_too_few(self, task: int, count: int, together: int) -> None:
        rows = len(self._data[task].train)
        if rows < count + together:
            raise DataError(
                f"task {self._data[task].task.name!r} has {rows} train rows, but a batch has "
                f"{together} of them and {count} others are drawn to be shown",
                allowed=f"at least {count + together} train rows",
                action="lower method.context.shots or batches.rows, give more rows, or set "
                "method.context.draw: once",
            )

    def draw(
        self,
        task: int,
        count: int,
        without: Collection[int],
        *,
        each: Draw = "step",
        balanced: bool = False,
    ) -> list[str]:
        """Draws ``count`` solved rows of a task, in random order.

        `without` are numbers of train rows to leave out. With ``each="step"``, every call draws
        other rows, by torch's global generator. With ``"epoch"``, the rows are the same throughout
        an epoch of the stream; the next row in order replaces one that is left out.

        `balanced` draws and shows a row of each label in turn, if the task has labels. Otherwise
        the labels lean away from those of the rows that are left out, the more so the fewer rows
        there are.

        Raises:
            DataError: The task has too few rows.
        """
        left_out = set(without)
        self._refuse_too_few(task, count, len(left_out))
        pools, most = self._pools(task, balanced), count + len(left_out)
        if each == "epoch":
            key = (self._stream.seed, self._stream.epoch, balanced)
            if self._orders.get(task, (None,))[0] != key:
                generator = np.random.default_rng(Random(f"shown-{key}-{task}").getrandbits(64))
                self._orders[task] = (key, [generator.permutation(pool) for pool in pools])
            drawn = [order[:most] for order in self._orders[task][1]]
        else:
            random = Random(int(torch.randint(2**62, ())))
            drawn = [pool[random.sample(range(len(pool)), min(len(pool), most))] for pool in pools]
            random.shuffle(drawn)
        left = [[int(row) for row in rows if int(row) not in left_out] for rows in drawn]
        return self._solve(task, islice(in_turn(left), count))

    def _pools(self, task: int, balanced: bool) -> list[Indices]:
        """Numbers of a task's train rows: of each label, or of all."""
        if (task, balanced) not in self._members:
            item = self._data[task]
            label = item.task.columns.label
            labels = (row[label] for row in item.train.iterate([label]))
            by_label = balanced and item.task.type.has_labels
            pools = members_of(labels) if by_label else [np.arange(len(item.train))]
            self._members[task, balanced] = pools
        return self._members[task, balanced]

    def unseen(self, task: int) -> dict[int, tuple[int, ...]]:
        """For each demonstration of a task that is a train row: the places that this row won't see.

        These are its own place and, of a task with labels, one of each other label: if only its own
        were gone, the label that is shown less often would be the row's answer. The n-th row of a
        label goes with the n-th of the others, from the first again where a label has fewer. If no
        label is shown twice, these are all places.
        """
        item = self._data[task]
        places = {number: place for place, number in enumerate(item.task.shots.rows)}
        sources = item.train.array(SOURCE_ROW).tolist() if len(item.train) else []
        labelled = item.task.type.has_labels
        labels = item.shown.column(item.task.columns.label) if labelled else [None] * len(places)
        members = [group.tolist() for group in members_of(labels)]
        turns = {
            place: tuple(same[turn % len(same)] for same in members)
            for group in members
            for turn, place in enumerate(group)
        }
        return {
            row: turns[places[source]] for row, source in enumerate(sources) if source in places
        }

    def longest(self, task: int, count: int) -> list[str]:
        """The ``count`` solved rows of a task with the most tokens in training."""
        split = self._stream.splits[task]
        order = np.argsort(-(split.lengths + split.rows.array("cut")), kind="stable")
        return self._solve(task, order[:count].tolist())

    def _solve(self, task: int, numbers: Iterable[int]) -> list[str]:
        item = self._data[task]
        renderer = TaskRenderer(item.task)
        # One text each: a task with a context is no chat.
        return [cast(str, renderer.render_solved(item.train[number], number)) for number in numbers]
