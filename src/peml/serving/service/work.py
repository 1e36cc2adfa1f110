"""What the model thread works on: rows to score and texts to generate."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from peml.evaluation.mixed import EncodedRow
from peml.models import Spelling

_UNFINISHED = "\ufffd"  # what the bytes of half a character decode to


class Work:
    """One row or text of a task. Work of the same lane shares batches.

    Attributes:
        tokens: What it takes of a batch's budget.
        gone: Whether nobody waits for it any more; set by another thread.
    """

    lane: ClassVar[str]

    def __init__(self, task_id: int, tokens: int) -> None:
        self.task_id = task_id
        self.tokens = tokens
        self.gone = False


class AskedRow(Work):
    """A row whose options or score the model computes."""

    lane = "rows"

    def __init__(self, row: EncodedRow, options: tuple[str, ...]) -> None:
        super().__init__(row.task_id, int(row.columns["tokens"]))
        self.row = row
        self.options = options


class Text(Work):
    """A text that the model continues, token by token.

    Args:
        task_id: Index of its task.
        ids: The prompt's tokens.
        spelling: Writes tokens as text.
        limit: Most tokens to generate.
        stop: The text ends before the first of these.
        gap: White space of the prompt that the text may begin with; it is left out.
        cut: Tokens that were cut from the prompt.
        emit: Called with each piece of the text, on the model's thread.

    Attributes:
        text: What was written so far, up to a stop string.
        generated: Number of tokens, the end token included.
        reason: Why it ended: ``stop`` or ``length``; empty before.
    """

    lane = "texts"

    def __init__(
        self,
        task_id: int,
        ids: Sequence[int],
        spelling: Spelling,
        *,
        limit: int,
        stop: Sequence[str] = (),
        gap: str = "",
        cut: int = 0,
        emit: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(task_id, len(ids) + limit)
        self.ids = list(ids)
        self.limit = limit
        self.cut = cut
        self.text = ""
        self.generated = 0
        self.reason: Literal["", "stop", "length"] = ""
        self._spelling = spelling.ending_at(stop)
        self._stop = tuple(stop)
        self._gap = gap
        self._emit = emit
        self._tokens: list[int] = []
        self._sent = 0

    @property
    def done(self) -> bool:
        """Whether it needs no further token."""
        return self.gone or bool(self.reason)

    def see(self, token: int) -> None:
        """Takes the next token."""
        self.generated += 1
        ended = token in self._spelling.ends
        if not ended:
            self._tokens.append(token)
        full = self.generated >= self.limit
        if not (self._stop or self._emit or ended or full):
            return
        text = self._spelling.read(self._tokens).removeprefix(self._gap)
        starts = [start for string in self._stop if (start := text.find(string)) >= 0]
        self.text = text[: min(starts)] if starts else text
        if starts or ended:
            self.reason = "stop"
        elif full:
            self.reason = "length"
        self._send()

    def _send(self) -> None:
        if self._emit is None:
            return
        text = self.text
        if not self.reason:
            if text.endswith(_UNFINISHED) or self._gap.startswith(text):
                return
            text = text[: len(text) - self._held(text)]
        if len(text) > self._sent:
            self._emit(text[self._sent :])
            self._sent = len(text)

    def _held(self, text: str) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = max((len(string) for string in self._stop), default=1) - 1
        return next(
            (
                size
                for size in range(min(longest, len(text)), 0, -1)
                if any(string.startswith(text[-size:]) for string in self._stop)
            ),
            0,
        )
