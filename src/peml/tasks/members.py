"""Many tasks of one make, such as the subjects of an exam, from one definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError, field_validator

from peml.problems import describe_problems
from peml.settings import Settings

MEMBER = "$member"
"""Stands for the member's name in every text of a family's task."""


class TaskFamily(Settings):
    """A suite's entry that stands for one task a member."""

    members: dict[str, tuple[str, ...]] = Field(
        description="Names of the tasks, by the group they belong to.", min_length=1
    )
    task: dict[str, Any] = Field(
        description="The definition they share, without name and group; `$member` stands for the "
        "name."
    )

    @field_validator("task")
    @classmethod
    def _leaves_the_name_open(cls, task: dict[str, Any]) -> dict[str, Any]:
        told = [key for key in ("name", "group") if key in task]
        if told:
            raise ValueError(f"{' and '.join(told)}: told by members; take it out")
        return task


def is_family(entry: Any) -> bool:
    """Whether an entry of a suite's tasks is a family."""
    return isinstance(entry, dict) and "members" in entry


def expand_family(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The definitions of a family's tasks, in the order of its groups and members.

    Raises:
        ValueError: The family isn't one; the message has a line for each problem.
    """
    try:
        family = TaskFamily.model_validate(entry)
    except ValidationError as error:
        raise ValueError("\n".join(describe_problems(error, TaskFamily))) from error
    return list(_expand(family))


def _expand(family: TaskFamily) -> Iterator[dict[str, Any]]:
    for group, names in family.members.items():
        for name in names:
            yield {"name": name, "group": group, **_filled(family.task, name)}


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return value.replace(MEMBER, name)
    if isinstance(value, dict):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value
