"""Tokens of an answer as text: what was generated, and what is right, spelled alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from peml.errors import DataError


class Spelling:
    """Reads and spells the answers of a text-to-text model.

    Only padding, start and end tokens are no part of an answer. Every other special token may be
    one, such as a sentinel, a mask, or a marker that was added to the tokenizer.

    Args:
        tokenizer: Spells tokens.
        ends: Further tokens that end an answer, beside the tokenizer's own, which training uses.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        known = [token for token in (tokenizer.eos_token_id, *ends) if token is not None]
        self.ends = tuple(dict.fromkeys(known))

    @cached_property
    def special(self) -> dict[int, str]:
        """The tokenizer's special tokens."""
        added = self.tokenizer.added_tokens_decoder.items()
        found = {number: str(token) for number, token in added if token.special}
        named = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return found | dict(named)

    @cached_property
    def frame(self) -> frozenset[int]:
        """Padding, starts and ends: no part of an answer."""
        tokenizer = self.tokenizer
        # What stands around every target, such as BART's start or a language's code.
        around = tokenizer(text_target="")["input_ids"]
        known = {tokenizer.pad_token_id, tokenizer.bos_token_id, *self.ends}
        return frozenset({*known, *(token for token in around if token in self.special)} - {None})

    def ending_at(self, stop: Sequence[str]) -> Spelling:
        """The same, with the special tokens among some stop strings as further ends."""
        found = [number for number, token in self.special.items() if token in stop]
        return Spelling(self.tokenizer, (*self.ends, *found)) if found else self

    def read(self, tokens: Sequence[int]) -> str:
        """The answer in generated tokens."""
        answer = takewhile(lambda token: token not in self.ends, tokens)
        return self._decode([token for token in answer if token not in self.frame])

    def respell(self, text: str) -> str:
        """A right answer as the model that learnt it would spell it.

        Many tokenizers drop the spaces around special tokens, so that no model can give them back.
        A text that changes in more than spaces stays as it is, for then it can't be learnt.

        Raises:
            DataError: See `refuse_frame`.
        """
        self.refuse_frame(text)
        if self._some_special.search(text) is None:
            return text
        spelled = self._decode(self._ids(text)).strip()
        return spelled if _solid(spelled) == _solid(text) else text

    def refuse_frame(self, text: str) -> None:
        """Refuses a right answer that no prediction could ever equal.

        Raises:
            DataError: The text holds padding, a start or an end.
        """
        if self._some_special.search(text) is None:
            return
        for token in self._ids(text):
            if token in self.frame and self.special.get(token, "") in text:
                raise DataError(
                    f"the right answer {text!r} holds {self.special[token]!r}, which stands for "
                    "padding, or for the start or end of an answer.",
                    allowed="answers without it: it is added and taken away where it belongs",
                    action="take it out of the answers",
                )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @cached_property
    def _some_special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.special.values())) or r"(?!)")

    def _decode(self, ids: list[int]) -> str:
        # What some tokenizers call cleaning takes spaces before punctuation out of an answer.
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def _solid(text: str) -> str:
    return "".join(text.split())


def declared_ends(tokenizer: Any, declared: Any) -> tuple[int, ...]:
    """The ends that a model's files name, as far as they are special tokens of its tokenizer.

    A chat model often names several. Others are left out: an ordinary token that ends every text,
    such as another tokenizer's end, would cut answers short.

    Args:
        tokenizer: The model's.
        declared: ``eos_token_id`` of a config: a number, several, or None.
    """
    several = declared if isinstance(declared, list | tuple) else [declared]
    special = Spelling(tokenizer).special
    return tuple(token for token in several if token in special)
