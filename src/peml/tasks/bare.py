"""Prompts without words of their own, for tasks whose instruction is held elsewhere."""

from jinja2 import Environment, meta, nodes

from peml.errors import TaskError
from peml.tasks.task import Task

_PARSER = Environment(keep_trailing_newline=True)


def with_bare_template(task: Task) -> Task:
    """The task with prompts that have only a row's fields, one per line, before the answer.

    The fields are the task's segments, by default its input columns. Templates without words of
    their own and conversations stay as they are.

    Raises:
        TaskError: The template shows other fields too, or the segments have words of their own.
    """
    if task.is_conversation or not _words(task.template):
        return task
    fields = task.segments or tuple(f"{{{{ {name} }}}}" for name in task.columns.inputs)
    bare = "".join(f"{field}\n" for field in fields)
    lost = _variables(task.template) - _variables(bare)
    if lost or _words(bare):
        raise TaskError(
            f"Task {task.name!r}: tasks.bare would leave {', '.join(sorted(lost))} out of its "
            "prompts, which its template shows."
            if lost
            else f"Task {task.name!r}: its segments have words of their own, so prompts of nothing "
            "but fields (tasks.bare) can't be made of them.",
            allowed="templates of a task's segments or inputs, and words",
            action="Write a shorter template in the task's file, or leave out tasks.bare.",
        )
    return task.model_copy(update={"template": bare})


def _words(template: str) -> bool:
    """Whether a template has letters or digits outside of its fields."""
    data = _PARSER.parse(template).find_all(nodes.TemplateData)
    return any(letter.isalnum() for node in data for letter in node.data)


def _variables(template: str) -> set[str]:
    return meta.find_undeclared_variables(_PARSER.parse(template))
