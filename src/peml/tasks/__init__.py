"""Tasks as data: their definitions, the rendering of their rows, and the bundled suites."""

from peml.tasks.bare import with_bare_template
from peml.tasks.chat import Chat, Turn
from peml.tasks.columns import SOURCE_ROW
from peml.tasks.example import Example
from peml.tasks.kinds import OF_SCORES, Answer, Averaging, TaskType
from peml.tasks.suite import Suite, list_suites, load_definition, load_suite, load_task_file
from peml.tasks.task import Shots, Task
from peml.tasks.template import TaskRenderer

__all__ = [
    "OF_SCORES",
    "SOURCE_ROW",
    "Answer",
    "Averaging",
    "Chat",
    "Example",
    "Shots",
    "Suite",
    "Task",
    "TaskRenderer",
    "TaskType",
    "Turn",
    "list_suites",
    "load_definition",
    "load_suite",
    "load_task_file",
    "with_bare_template",
]
