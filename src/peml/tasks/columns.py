"""Which fields of a row mean what to a task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from peml.errors import nearest
from peml.settings import Settings

FieldKind = Literal["text", "number", "boolean"]
"""What a field holds, where a task says it."""


class Columns(Settings):
    """Which fields of a row mean what. A dot reaches into an object: ``choices.text``."""

    inputs: tuple[str, ...] = Field(description="Text fields of the input, in order.", min_length=1)
    label: str = Field(description="Field with the label, score, right option or target text.")
    choices: str | tuple[str, ...] | None = Field(
        None,
        description="Multiple choice: the field with a list of options, or one field an option.",
    )
    keys: str | tuple[str, ...] | None = Field(
        None,
        description="Multiple choice: what the label calls each option, where it isn't the index "
        "from 0 or the text: the names in order, or the field with a list of them.",
    )
    extra: tuple[str, ...] = Field(
        (),
        description="Further fields that templates may use: texts, numbers or lists of texts. They "
        "aren't segments, and don't count when rows are compared. Where a row has none, because it "
        "is null, absent or an empty cell of a CSV file, a template sees none.",
    )
    group: tuple[str, ...] = Field(
        (),
        description="Fields whose values together name the group a row belongs to, such as the "
        "question of an answer. Groups are kept whole in draws.",
    )
    aliases: dict[str, str] = Field(
        default_factory=dict,
        description="Other names of fields: {NAME: OTHER} reads OTHER where there is no NAME.",
    )
    kinds: dict[str, FieldKind] = Field(
        default_factory=dict,
        description="What fields of extra, group or the label hold, where files don't say it, as "
        "CSV, or it could be read in two ways: {NAME: text}, {NAME: number} or {NAME: boolean}. A "
        "label that is to be a class or an option is its name (`text`) or its index (`number`).",
    )

    @model_validator(mode="after")
    def _kinds_of_its_fields(self) -> Columns:
        free = (*self.extra, *self.group, self.label)
        fixed = {*self.inputs, *self.options, self.keys if isinstance(self.keys, str) else ""}
        problems = []
        for name in self.kinds:
            if name in fixed:
                problems.append(f"kinds: {name!r} is a text anyway, so take it out")
            elif name not in free:
                problems.append(f"kinds: there is no field {name!r}.{nearest(name, free)}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """The fields that hold the options: none, one with a list, or one an option."""
        if self.choices is None:
            return ()
        return (self.choices,) if isinstance(self.choices, str) else self.choices

    @property
    def needed(self) -> tuple[str, ...]:
        """Every field of a row that the task reads, each once, the label last."""
        keys = (self.keys,) if isinstance(self.keys, str) else ()
        fields = (*self.inputs, *self.options, *keys, *self.extra, *self.group, self.label)
        return tuple(dict.fromkeys(fields))
