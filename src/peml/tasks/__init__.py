"""Tasks as data: their definitions, the rendering of their rows, and the bundled suites."""

from peml.tasks.bare import with_bare_template
from peml.tasks.chat import Chat, Shot, Turn
from peml.tasks.classes import (
    ClassReading,
    ends_negative,
    explain_ambiguity,
    is_reversed,
    read_class,
)
from peml.tasks.columns import Columns, FieldKind
from peml.tasks.conditions import conditions
from peml.tasks.example import Example
from peml.tasks.generated import generate
from peml.tasks.instructions import split_row
from peml.tasks.kinds import METRICS, OF_SCORES, Answer, Averaging, Normalisation, TaskType
from peml.tasks.label import read_label, right_option
from peml.tasks.matching import find_loosely, read_boolean, spell_number
from peml.tasks.suite import (
    Suite,
    join_suites,
    list_suites,
    load_definition,
    load_suite,
    load_task_file,
)
from peml.tasks.task import Shots, Task
from peml.tasks.template import BETWEEN, SOURCE_ROW, TaskRenderer, join_answer, shown_fields

__all__ = [
    "BETWEEN",
    "METRICS",
    "OF_SCORES",
    "SOURCE_ROW",
    "Answer",
    "Averaging",
    "Chat",
    "ClassReading",
    "Columns",
    "Example",
    "FieldKind",
    "Normalisation",
    "Shot",
    "Shots",
    "Suite",
    "Task",
    "TaskRenderer",
    "TaskType",
    "Turn",
    "conditions",
    "ends_negative",
    "explain_ambiguity",
    "find_loosely",
    "generate",
    "is_reversed",
    "join_answer",
    "join_suites",
    "list_suites",
    "load_definition",
    "load_suite",
    "load_task_file",
    "read_boolean",
    "read_class",
    "read_label",
    "right_option",
    "shown_fields",
    "spell_number",
    "split_row",
    "with_bare_template",
]
