"""Answers as the tokenizer writes them, so that generated and right ones can be compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from peml.errors import DataError


class Spelling:
    """Converts the answers of a text-to-text model from and to tokens.

    Padding, start and end tokens are never part of an answer. Other special tokens can be, such as
    a sentinel, a mask, or a marker that was added to the tokenizer.

    `ends` are further tokens that end an answer, besides the tokenizer's end token, which training
    uses.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        ends = [token for token in (tokenizer.eos_token_id, *ends) if token is not None]
        self.ends = tuple(dict.fromkeys(ends))

    @cached_property
    def special(self) -> dict[int, str]:
        """The tokenizer's special tokens, id to text."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {number: str(token) for number, token in added if token.special}
        named = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return special | dict(named)

    @cached_property
    def frame(self) -> frozenset[int]:
        """Padding, start and end tokens, which are never part of an answer."""
        tokenizer = self.tokenizer
        # Tokens added to every target, such as BART's start token or a language code.
        added = tokenizer(text_target="")["input_ids"]
        named = {tokenizer.pad_token_id, tokenizer.bos_token_id, *self.ends}
        return frozenset({*named, *(token for token in added if token in self.special)} - {None})

    def ending_at(self, stop: Sequence[str]) -> Spelling:
        """A copy that also ends answers at the stop strings that are special tokens."""
        more = [number for number, token in self.special.items() if token in stop]
        return Spelling(self.tokenizer, (*self.ends, *more)) if more else self

    def read(self, tokens: Sequence[int]) -> str:
        """The answer text of generated tokens."""
        answer = takewhile(lambda token: token not in self.ends, tokens)
        return self.decode([token for token in answer if token not in self.frame])

    def respell(self, text: str) -> str:
        """A right answer as a model that learnt it would write it.

        Many tokenizers drop the spaces around special tokens, so no model can reproduce them. A
        text that the tokenizer changes in more than spaces is returned unchanged.

        Raises:
            DataError: See `refuse_frame`.
        """
        self.refuse_frame(text)
        if self._some_special.search(text) is None:
            return text
        spelled = self.decode(self.tokens(text)).strip()
        return text if is_altered(text, spelled) else spelled

    def refuse_frame(self, text: str) -> None:
        """Raises a DataError if a right answer contains a padding, start or end token."""
        if self._some_special.search(text) is None:
            return
        for token in self.tokens(text):
            if token in self.frame and self.special.get(token, "") in text:
                raise DataError(
                    f"the right answer {text!r} contains {self.special[token]!r}, which marks "
                    "padding, or the start or end of an answer.",
                    allowed="answers without this token: PEML adds and removes it itself",
                    action="remove it from the answers",
                )

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without those that the tokenizer adds to every text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @cached_property
    def _some_special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.special.values())) or r"(?!)")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, including special tokens."""
        # "Cleaning up" would remove spaces before punctuation from an answer.
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def is_altered(text: str, spelled: str) -> bool:
    """Whether tokenising changed a text (`spelled`, from `Spelling.decode`) in more than spaces."""
    return "".join(text.split()) != "".join(spelled.split())


def declared_ends(tokenizer: Any, declared: Any) -> tuple[int, ...]:
    """The end tokens that a model's files name and that are special tokens of its tokenizer.

    ``declared`` is a config's ``eos_token_id``: a number, several (as chat models often have), or
    None. Ordinary tokens (such as the id of another tokenizer's end token) are left out, since they
    would cut answers short.
    """
    tokens = declared if isinstance(declared, list | tuple) else [declared]
    special = Spelling(tokenizer).special
    return tuple(token for token in tokens if token in special)
