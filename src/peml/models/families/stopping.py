"""Where a generated text ends: before the first of a task's stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from peml.models.families.spelling import Spelling


def stopping_criteria(
    spelling: Spelling, stop: Sequence[str], given: int, gaps: Sequence[str] = ()
) -> StoppingCriteriaList:
    """What ends a row's generation early, so that a batch ends with its last row.

    Args:
        spelling: Spells tokens.
        stop: Strings none of which a text may hold; none: only the end of text ends it.
        given: Tokens at the start of each row that were not generated.
        gaps: White space of each row's prompt that its text may begin with (`cut_text`).
    """
    return StoppingCriteriaList([_Stops(spelling, stop, given, gaps)] if stop else [])


class _Stops(StoppingCriteria):
    """Reads the generated text alone.

    Transformers' own criterion reads prompt and text as one, so that a stop string may begin in
    the prompt.
    """

    def __init__(
        self, spelling: Spelling, stop: Sequence[str], given: int, gaps: Sequence[str]
    ) -> None:
        self._spelling = spelling
        self._stop = stop
        self._given = given
        self._gaps = gaps

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Which rows are done, (rows,)."""
        texts = [self._spelling.read(row) for row in input_ids[:, self._given :].tolist()]
        if self._gaps:
            texts = [t.removeprefix(gap) for t, gap in zip(texts, self._gaps, strict=True)]
        done = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def cut_text(text: str, stop: Sequence[str], gap: str = "") -> str:
    """A text up to its first stop string, without spaces around it.

    Args:
        text: What was generated.
        stop: Strings that it ends before.
        gap: White space between prompt and text, which no stop string begins in.
    """
    text = text.removeprefix(gap)
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(places)] if places else text).strip()
