"""Data: loading, leakage, splits, encoding, mixing and batching."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.data.batch import TaskBatch
    from peml.data.batching import BatchStream, Collator, evaluation_batches
    from peml.data.encoding import EncodedSplit, encode_split
    from peml.data.folders import TaskMissingError
    from peml.data.inspection import CheckedRows, check_rows
    from peml.data.leakage import Leak, LeakageReport, drop_leaked, find_leakage, refuse_shown
    from peml.data.mapped import cache_folder
    from peml.data.mixing import MixingSettings, draw_rows, rows_per_epoch, task_weights
    from peml.data.planning import plan_batches
    from peml.data.rows import Rows
    from peml.data.settings import BatchSettings, TasksSettings, select_tasks
    from peml.data.sources import (
        LoadedTasks,
        Origin,
        TaskData,
        load_all,
        load_task_data,
    )
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "BatchSettings",
    "BatchStream",
    "CheckedRows",
    "Collator",
    "EncodedSplit",
    "Leak",
    "LeakageReport",
    "LoadedTasks",
    "MixingSettings",
    "Origin",
    "Rows",
    "TaskBatch",
    "TaskData",
    "TaskMissingError",
    "TasksSettings",
    "cache_folder",
    "check_rows",
    "draw_rows",
    "drop_leaked",
    "encode_split",
    "evaluation_batches",
    "find_leakage",
    "load_all",
    "load_task_data",
    "plan_batches",
    "refuse_shown",
    "rows_per_epoch",
    "select_tasks",
    "task_weights",
]
