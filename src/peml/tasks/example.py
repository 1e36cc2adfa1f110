"""A rendered row, before any model family has seen it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One row, rendered, before any model family has seen it.

    Attributes:
        index: Row number in its split.
        segments: One or two texts an encoder reads.
        prompt: The rendered template a text-to-text model reads.
        options: Label words (classification), spelled scores (regression), this row's choices
            (multiple choice), or nothing (generation).
        label: Option index, score, or target text.
        answers: Texts of all right options, of which the label is one, where the task is scored
            on texts (`Task.answers_in_text`); else empty.
    """

    index: int
    segments: tuple[str, ...]
    prompt: str
    options: tuple[str, ...]
    label: int | float | str
    answers: tuple[str, ...] = ()

    @property
    def gold(self) -> int | float | str | tuple[str, ...]:
        """What a prediction is compared with: the label, or the texts of all right options."""
        return self.answers or self.label
