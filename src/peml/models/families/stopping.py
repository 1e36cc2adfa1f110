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
    stop, gaps, follow = limits.get("stop", ()), limits.get("gaps", ()), limits.get("follow")

    def find_stops(generated: Tensor) -> list[bool]:
        texts = [spelling.read(row) for row in generated.tolist()]
        spaces = gaps or [""] * len(texts)
        texts = [text.removeprefix(gap) for text, gap in zip(texts, spaces, strict=True)]
        return [any(each in text for each in stop) for text in texts]

    criteria = [_Ends(find_stops, given)] if stop else []
    return StoppingCriteriaList(criteria if follow is None else [*criteria, _Ends(follow, given)])


class _Ends(StoppingCriteria):
    """Asks a function which rows are done, by the generated tokens alone.

    Transformers' criterion of stop strings searches prompt and text as one, so that a string may
    begin in the prompt.
    """

    def __init__(self, follow: Follow, given: int) -> None:
        self._follow = follow
        self._given = given

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Which rows are done, (rows,)."""
        done = self._follow(input_ids[:, self._given :])
        return torch.tensor(done, device=input_ids.device)


def cut_text(text: str, stop: Sequence[str], gap: str = "") -> str:
    """A generated text up to its first stop string, stripped.

    ``gap`` is white space of the prompt that the text may begin with; removed before the search.
    """
    text = text.removeprefix(gap)
    starts = [start for string in stop if (start := text.find(string)) >= 0]
    return (text[: min(starts)] if starts else text).strip()
