"""Data: loads, splits, encodes, mixes and batches rows, and finds leaked ones."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.data.batch import TaskBatch
    from peml.data.batching import BatchStream, Collator
    from peml.data.encoding import encode_split
    from peml.data.leakage import drop_leaked, find_leakage, refuse_shown
    from peml.data.mixing import MixingSettings
    from peml.data.settings import BatchSettings, TasksSettings, select_tasks
    from peml.data.sources import LoadedTasks, TaskData, load_all
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "BatchSettings",
    "BatchStream",
    "Collator",
    "LoadedTasks",
    "MixingSettings",
    "TaskBatch",
    "TaskData",
    "TasksSettings",
    "drop_leaked",
    "encode_split",
    "find_leakage",
    "load_all",
    "refuse_shown",
    "select_tasks",
]
