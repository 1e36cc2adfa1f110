"""Asking a task through a tokenizer's chat template: turns instead of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from peml.settings import Settings

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says in a chat."""

    role: Role
    content: str


class Chat(Settings):
    """How a task is asked through the tokenizer's chat template.

    The rendered row is the user's turn, the answer the assistant's. Solved rows are earlier turns.
    """

    system: str | None = Field(
        None,
        description="Text of the system turn, in front of the task's header; default: the header "
        "alone, or what the chat template says without a system turn.",
        min_length=1,
    )
    variables: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Values for the chat template, such as {enable_thinking: false}.",
    )

    def ask(self, text: str, header: str | None = None, shots: tuple[Turn, ...] = ()) -> list[Turn]:
        """The turns in front of an answer.

        Args:
            text: What the user says last.
            header: Added to the system turn.
            shots: Earlier turns.
        """
        system = "\n\n".join(part for part in (self.system, header) if part)
        start = [Turn("system", system)] if system else []
        return [*start, *shots, Turn("user", text)]


def read_switch(value: object) -> object:
    """``true`` as a `Chat` with its defaults, ``false`` as None."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value
