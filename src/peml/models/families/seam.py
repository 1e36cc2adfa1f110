"""Where a prompt ends and its answer begins: tokens of the two read as one text.

A tokenizer may draw other tokens across the seam than for the two texts apart: sentencepiece puts a
space in front of a text of its own, and white space belongs to the word behind it. So prompt and
answer are tokenised together, and the answer's tokens are those behind the prompt's::

    prompt             "Mood: "
    context            "Mood:"                 white space at its end moves to the answer
    joined             "Mood: positive"   ->   M ood : | _positive
    answer                                             _positive

This is the rule of lm-evaluation-harness (``TemplateLM._encode_pair`` and ``HFLM.tok_encode``). As
there, the prompt's tokens are counted and not compared, so the context is the same for all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from peml.errors import DataError, ModelError
from peml.tasks import join_answer


def trailing_space(prompt: str) -> str:
    """The white space at a prompt's end, which counts as the answer's."""
    return prompt[len(prompt.rstrip()) :]


def read_back(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text that tokens stand for, special tokens included."""
    text: str = tokenizer.decode(
        list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def is_altered(answer: str, spelled: str) -> bool:
    """Whether an answer is another text once it is tokens (`read_back`), white space left aside."""
    return "".join(answer.split()) != "".join(spelled.split())


def find_frame(
    tokenizer: Any, argument: Literal["text", "text_target"]
) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts in front of every text, and those behind it.

    Args:
        tokenizer: Is asked with and without them.
        argument: How the texts are given to it; some treat targets differently.

    Raises:
        ModelError: They don't stand around the text's own tokens.
    """
    framed, bare = (
        tokenizer(**{argument: "a"}, add_special_tokens=special)["input_ids"]
        for special in (True, False)
    )
    for place in range(len(framed) - len(bare) + 1):
        if framed[place : place + len(bare)] == bare:
            return framed[:place], framed[place + len(bare) :]
    raise ModelError(
        f"the tokenizer makes {framed} of 'a', and {bare} without special tokens: what it puts "
        "around a text can't be told",
        allowed="a tokenizer whose special tokens stand around a text's own",
        action="correct the tokenizer's post-processor",
    )


def start_token(tokenizer: Any) -> int:
    """What a model reads in place of an empty prompt: its start token, or else its end token.

    Raises:
        DataError: The tokenizer has neither.
    """
    token = _first_token(tokenizer)
    if token is None:
        raise DataError(
            "the prompt is empty, and the model's tokenizer has no token to start with.",
            allowed="a prompt with a text, or a tokenizer with a start or an end token",
            action="correct the row or the template",
        )
    return token


def _first_token(tokenizer: Any) -> int | None:
    token: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if token is None else token


class Seam:
    """Tokenises prompts, and answers behind them, for decoder-only models.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def context(self, prompt: str) -> list[int]:
        """A prompt's tokens, one start token at least."""
        return self._context(self._encode([prompt.rstrip()])[0])

    def split(self, prompt: str, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens, and those of each answer behind it.

        Raises:
            DataError: The prompt is empty, and the tokenizer has no token to start with.
        """
        joined = [prompt + join_answer(prompt, answer) for answer in answers]
        before, *wholes = self._encode([prompt.rstrip(), *joined])
        context = self._context(before)
        found = [whole[len(before) :] for whole in wholes]
        if not before:  # an answer that spells the start token is not given it twice
            found = [ids[1:] if ids[:1] == context else ids for ids in found]
        return context, found

    @cached_property
    def start(self) -> list[int]:
        """What the tokenizer puts in front of every text; what it puts behind is left out."""
        return find_frame(self._tokenizer, "text")[0]

    @cached_property
    def _spelled_start(self) -> str:
        token = _first_token(self._tokenizer)
        return "" if token is None else str(self._tokenizer.decode([token]))

    def _context(self, ids: list[int]) -> list[int]:
        return ids or [start_token(self._tokenizer)]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [
            ids if self._starts_itself(text) else [*self.start, *ids]
            for text, ids in zip(texts, found, strict=True)
        ]

    def _starts_itself(self, text: str) -> bool:
        """Whether a template spells the start token."""
        return bool(self._spelled_start) and text.startswith(self._spelled_start)
