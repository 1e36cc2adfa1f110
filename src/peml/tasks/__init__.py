"""Tasks are data: what a task is, how its rows are rendered, and the suites that come along."""

from peml.tasks.generated import generate
from peml.tasks.label import read_label
from peml.tasks.suite import Suite, join_suites, list_suites, load_suite, load_task_file
from peml.tasks.task import (
    METRICS,
    Columns,
    DevelopmentSplit,
    Example,
    Scale,
    Source,
    Splits,
    Task,
    TaskType,
)
from peml.tasks.template import SOURCE_ROW, TaskRenderer

__all__ = [
    "METRICS",
    "SOURCE_ROW",
    "Columns",
    "DevelopmentSplit",
    "Example",
    "Scale",
    "Source",
    "Splits",
    "Suite",
    "Task",
    "TaskRenderer",
    "TaskType",
    "generate",
    "join_suites",
    "list_suites",
    "load_suite",
    "load_task_file",
    "read_label",
]
