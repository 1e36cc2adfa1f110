"""Where a generated text ends: before the first of a task's stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

__all__ = ["read_texts", "stopping_criteria"]


def stopping_criteria(tokenizer: Any, stop: Sequence[str], given: int) -> StoppingCriteriaList:
    """What ends a row's generation early, so that a batch ends with its last row.

    Args:
        tokenizer: Spells tokens.
        stop: Strings none of which a text may hold; none: only the end of text ends it.
        given: Tokens at the start of each row that were not generated.
    """
    return StoppingCriteriaList([_Stops(tokenizer, stop, given)] if stop else [])


class _Stops(StoppingCriteria):
    """Reads the generated text alone.

    Transformers' own criterion reads prompt and text as one, so that a stop string may begin in
    the prompt.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], given: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._given = given

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Which rows are done, (rows,)."""
        texts = self._tokenizer.batch_decode(input_ids[:, self._given :], skip_special_tokens=True)
        done = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def read_texts(tokenizer: Any, tokens: Tensor, stop: Sequence[str]) -> list[str]:
    """Texts of generated tokens, (rows, tokens), each cut before its first stop string."""
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [_cut(text, stop).strip() for text in texts]


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return text[: min(places)] if places else text
