"""Families: many tasks from one definition, such as the subjects of an exam."""

from typing import Any

from pydantic import Field, ValidationError, field_validator

from peml.problems import describe_problems
from peml.settings import Settings

MEMBER = "$member"
"""Replaced by the member's name in every text of a family's task."""


class TaskFamily(Settings):
    """An entry of a suite that defines one task per member."""

    members: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Names of the tasks, by group."""
    task: dict[str, Any]
    """The shared definition, without name and group; `$member` is replaced by the name."""

    @field_validator("task")
    @classmethod
    def _leaves_the_name_open(cls, task: dict[str, Any]) -> dict[str, Any]:
        given = [key for key in ("name", "group") if key in task]
        if given:
            raise ValueError(f"{' and '.join(given)}: set by members; remove it here")
        return task


def is_family(entry: Any) -> bool:
    """Whether an entry of a suite's tasks is a family."""
    return isinstance(entry, dict) and "members" in entry


def expand_family(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The definitions of a family's tasks, in the order of its groups and members.

    Raises:
        ValueError: The definition has problems, one per line of the message.
    """
    try:
        family = TaskFamily.model_validate(entry)
    except ValidationError as error:
        raise ValueError("\n".join(describe_problems(error, TaskFamily))) from error
    return [
        {"name": name, "group": group, **_filled(family.task, name)}
        for group, names in family.members.items()
        for name in names
    ]


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return value.replace(MEMBER, name)
    if isinstance(value, dict):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value
