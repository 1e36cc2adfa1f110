"""Data: loads, splits, encodes, mixes and batches rows, and finds leaked ones."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.data.batch import TaskBatch
    from peml.data.batching import Collator
    from peml.data.settings import select_tasks
    from peml.data.sources import TaskData
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Collator",
    "TaskBatch",
    "TaskData",
    "select_tasks",
]
