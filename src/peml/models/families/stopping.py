"""Ends a generated text before the first of a task's stop strings."""

from collections.abc import Callable, Sequence
from typing import Any, Required, TypedDict

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from peml.models.families.spelling import Spelling

Follow = Callable[[Tensor], Sequence[bool]]
"""Called after each token with all generated ones, (rows, tokens); returns which rows are done."""


class Limits(TypedDict, total=False):
    """When generated texts end.

    Attributes:
        max_new_tokens: Longest text in tokens.
        stop: A text ends before the first of these strings.
        gaps: White space removed from the end of each prompt (`EncodedSequence.gap`), which the
            model generates first; stop strings are only searched after it. Empty: none.
        follow: Sees every token as it is generated, and ends rows.
    """

    max_new_tokens: Required[int]
    stop: Sequence[str]
    gaps: Sequence[str]
    follow: Follow | None


def stopping_criteria(spelling: Spelling, given: int, limits: Limits) -> StoppingCriteriaList:
    """Ends a row's generation at its stop string, so that a batch ends when all rows have.

    The first ``given`` tokens of each row were not generated. Without stop strings, only an end
    token ends a text.
    """
    stop, follow = limits.get("stop", ()), limits.get("follow")
    stops = [_Stops(spelling, stop, given, limits.get("gaps", ()))] if stop else []
    followed = [] if follow is None else [_Followed(follow, given)]
    return StoppingCriteriaList([*stops, *followed])


class _Followed(StoppingCriteria):
    """Asks a caller's function which rows are done."""

    def __init__(self, follow: Follow, given: int) -> None:
        self._follow = follow
        self._given = given

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Which rows are done, (rows,)."""
        done = self._follow(input_ids[:, self._given :])
        return torch.tensor(done, device=input_ids.device)


class _Stops(StoppingCriteria):
    """Searches stop strings in the generated text only.

    Transformers' criterion searches prompt and text as one, so that a stop string may begin in the
    prompt.
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
    """A generated text up to its first stop string, stripped.

    ``gap`` is white space of the prompt that the text may begin with; removed before the search.
    """
    text = text.removeprefix(gap)
    starts = [start for string in stop if (start := text.find(string)) >= 0]
    return (text[: min(starts)] if starts else text).strip()
