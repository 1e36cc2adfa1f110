"""Encodes the splits of a run's tasks, and holds rows out for a search that needs its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peml.data import TaskData
from peml.data.encoding import EncodedSplit, encode_split
from peml.data.rows import Rows
from peml.data.splits import divide_development
from peml.errors import TrainingError
from peml.evaluation import GoldSplit, refuse_unscorable
from peml.evaluation.evaluate import read_gold
from peml.models import Family, ModelSettings
from peml.models.families import Purpose
from peml.tasks import TaskRenderer


@dataclass(frozen=True)
class SplitEncoder:
    """Encodes rows as input of the model."""

    settings: ModelSettings
    family: Family

    def encode(self, item: TaskData, rows: Rows, purpose: Purpose) -> EncodedSplit:
        """Encodes rows of a task; error messages name the file or split of the rows."""
        return encode_split(
            rows,
            item.task,
            self.family,
            purpose,
            too_long=self.settings.too_long,
            weights=_class_weights(item) if purpose == "train" else None,
            where=item.origin.reported if rows is item.reported else item.origin.train,
        )

    def golds(self, data: Sequence[TaskData], splits: Sequence[Rows]) -> list[GoldSplit]:
        """One split of every task that has rows of it, with the right answers."""
        golds = []
        for number, (item, rows) in enumerate(zip(data, splits, strict=True)):
            if len(rows):
                encoded = self.encode(item, rows, item.task.type.evaluated_as)
                split = read_gold(item.task, number, rows, encoded, self.family.spelling)
                if rows is item.reported:
                    numbers = split.numbers or ()
                    refuse_unscorable(item.task, split.gold, numbers, item.origin.reported)
                golds.append(split)
        return golds

    def divided(
        self, data: Sequence[TaskData], share: float, seed: int
    ) -> tuple[list[GoldSplit], list[EncodedSplit]]:
        """The development splits, and the rows held out of them for a search.

        `share` is the share of each task's development rows to hold out; 0 for none.

        Raises:
            TrainingError: No task has rows to hold out.
        """
        if not share:
            return self.golds(data, [item.development for item in data]), []
        parts = [divide_development(item.development, item.task, share, seed) for item in data]
        if not any(len(rows) for _, rows in parts):
            raise TrainingError(
                "the search chooses on held-out development rows, but no task has any to spare",
                allowed="two development rows or more in some task",
                action="set method.search.optimise=single and method.search.discretise=argmax, or "
                "give more rows",
            )
        held_out = [
            self.encode(item, rows, "train") for (_, rows), item in zip(parts, data, strict=True)
        ]
        return self.golds(data, [rows for rows, _ in parts]), held_out


def _class_weights(item: TaskData) -> dict[int, float] | None:
    """The loss weight of train rows by label; None if all have the same."""
    if item.task.weights is None or not len(item.train):
        return None
    from sklearn.utils.class_weight import compute_class_weight

    renderer = TaskRenderer(item.task)
    gold = np.fromiter((renderer.gold(row, n) for n, row in enumerate(item.train)), np.int64)
    labels = np.unique(gold)
    weights = compute_class_weight(item.task.weights, classes=labels, y=gold)
    return dict(zip(labels.tolist(), weights.tolist(), strict=True))
