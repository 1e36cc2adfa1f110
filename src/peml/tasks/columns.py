"""The ``columns`` section of a task."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peml.errors import nearest
from peml.settings import Settings

SOURCE_ROW = "_source_row"
"""Column with a row's number in its file (from 0), for messages."""

FieldKind = Literal["text", "number", "boolean", "list"]
"""Kind of a field's values, if a task states it."""


class Columns(Settings):
    """What the fields of a row mean. A dot reads a nested field: ``choices.text``."""

    inputs: tuple[str, ...] = Field(description="Text fields of the input, in order.", min_length=1)
    label: str = Field(description="Field with the label, score, correct option or target text.")
    choices: str | tuple[str, ...] | None = None
    """Multiple choice: the field with a list of options, or one field per option."""
    keys: str | tuple[str, ...] | None = None
    """Multiple choice: names that the label uses for the options, if it is neither the index from 0
    nor the text: the names in order, or the field with a list of them."""
    extra: tuple[str, ...] = ()
    """Other fields that templates may use: texts, numbers or lists of texts. They aren't segments,
    and are ignored when rows are compared. A null, a missing field, an empty text and an empty CSV
    cell are the same in a template: `none`, and equal to an empty text."""
    group: tuple[str, ...] = ()
    """Fields whose values together identify the group of a row, such as the question of an answer.
    Groups are never split when rows are drawn."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other names of fields: {NAME: OTHER} reads OTHER if there is no NAME. Rows that have both are
    refused, unless both are the same or OTHER is empty."""
    kinds: dict[str, FieldKind] = Field(default_factory=dict)
    """Kinds of fields (of extra, group and label) that files don't tell, as in CSV, or that are
    ambiguous: {NAME: text}, {NAME: number} or {NAME: boolean}; for a field of extra also {NAME:
    list}, of texts. For the label of a class or an option, `text` means its name and `number` its
    index."""

    @model_validator(mode="after")
    def _of_its_fields(self) -> Self:
        free = (*self.extra, *self.group, self.label)
        fixed = {*self.inputs, *self.options, self.keys if isinstance(self.keys, str) else ""}
        problems = [
            f"aliases: there is no field {name!r}.{nearest(name, self.needed)}"
            for name in self.aliases
            if name not in self.needed
        ]
        if SOURCE_ROW in (*self.needed, *self.aliases.values()):
            problems.append(f"{SOURCE_ROW!r} is the name of a column of PEML's own")
        for name, kind in self.kinds.items():
            if kind == "list" and (name not in self.extra or name in self.group):
                problems.append(f"kinds: {name!r} can be a list only in columns.extra")
            elif name in fixed:
                problems.append(f"kinds: {name!r} is always a text; remove it")
            elif name not in free:
                problems.append(f"kinds: there is no field {name!r}.{nearest(name, free)}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """The fields with the options: none, one with a list, or one per option."""
        if self.choices is None:
            return ()
        return (self.choices,) if isinstance(self.choices, str) else self.choices

    @property
    def shown(self) -> tuple[str, ...]:
        """Every field that templates can show, each once; rows to predict need no others."""
        return tuple(dict.fromkeys((*self.inputs, *self.options, *self.extra)))

    @property
    def needed(self) -> tuple[str, ...]:
        """Every field of a row that the task reads, each once, the label last."""
        keys = (self.keys,) if isinstance(self.keys, str) else ()
        fields = (*self.inputs, *self.options, *keys, *self.extra, *self.group, self.label)
        return tuple(dict.fromkeys(fields))
