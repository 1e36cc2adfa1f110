"""Asks a task through a tokenizer's chat template: as turns instead of one text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from peml.settings import Settings

Role = Literal["system", "user", "assistant"]
_BRACES = re.compile(r"\{\{\s*\w+\s*\}\}")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat, with the side that speaks.

    Attributes:
        role: The side.
        content: Its text.
        learnt: Whether an answer among earlier turns is trained on.
    """

    role: Role
    content: str
    learnt: bool = False


class Shot(Settings):
    """A solved example with a separate answer, so that it can be a turn of a chat."""

    question: str = Field(description="The example, as a prompt shows it.")
    answer: str = Field(description="Its answer.")


class Chat(Settings):
    """How a task is asked through the tokenizer's chat template.

    The rendered row is the user's turn, the answer the assistant's. Solved rows are earlier turns.
    """

    system: str | None = Field(None, min_length=1)
    """Text of the system turn, in front of the task's header; default: the header alone, or what
    the chat template says without a system turn."""
    variables: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Values for the chat template, such as {enable_thinking: false}."""

    @field_validator("system")
    @classmethod
    def _is_text(cls, system: str | None) -> str | None:
        if braces := _BRACES.search(system or ""):
            raise ValueError(
                f"{braces[0]!r} would be a text, the same in every row; the task's header is a "
                "template, which stands in the system turn too"
            )
        return system

    def ask(self, text: str, header: str | None = None, shots: Sequence[Turn] = ()) -> list[Turn]:
        """The turns in front of an answer: system turn with the header, shots, the text."""
        return self.open([*shots, Turn("user", text)], header)

    def open(self, turns: Sequence[Turn], header: str | None = None) -> list[Turn]:
        """The turns, with the text of the system turn, and a header, in front."""
        own = [turn.content for turn in turns[:1] if turn.role == "system"]
        system = "\n\n".join(part for part in (self.system, header, *own) if part)
        start = [Turn("system", system)] if system else []
        return [*start, *turns[len(own) :]]


def read_switch(value: object) -> object:
    """``true`` as a `Chat` with its defaults, ``false`` as None."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value
