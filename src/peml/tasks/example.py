"""A rendered row, before tokenisation."""

from dataclasses import dataclass

from peml.tasks.chat import Turn


@dataclass(frozen=True, slots=True)
class Example:
    """One rendered row, before a model family encodes it.

    Attributes:
        index: Row number in its split.
        segments: One or two texts an encoder reads.
        prompt: The rendered template a text-to-text model reads.
        options: Label words (classification), scores as texts (regression), this row's choices
            (multiple choice), or nothing (generation).
        label: Option index, score, or target text.
        answers: Texts of all correct options, if the task is scored on texts
            (`Task.answers_in_text`); else empty.
        context: Beginning of the prompt that the model holds as keys and values, if the task has
            one (`Task.context`).
        turns: Turns for a chat template, instead of the prompt, if the task has a `chat`.
    """

    index: int
    segments: tuple[str, ...]
    prompt: str
    options: tuple[str, ...]
    label: int | float | str
    answers: tuple[str, ...] = ()
    context: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def gold(self) -> int | float | str | tuple[str, ...]:
        """The value to compare predictions with: the label, or the texts of all correct options."""
        return self.answers or self.label
