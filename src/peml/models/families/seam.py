"""Splits the tokens of prompt + answer, tokenised as one text, into those of each.

Tokenising the two texts separately can give other tokens where they meet: sentencepiece puts a
space in front of every text, and white space belongs to the word after it. So prompt and answer are
tokenised together, and the answer's tokens are those after the prompt's::

    prompt             "Mood: "
    context            "Mood:"                 white space at its end moves to the answer
    joined             "Mood: positive"   ->   M ood : | _positive
    answer                                             _positive

This is the rule of lm-evaluation-harness (``TemplateLM._encode_pair`` and ``HFLM.tok_encode``). As
there, only the number of the prompt's tokens is used, so the context is the same for all answers.
`ChatSeam` (``chat.py``) does the same for chats, by the tokenizer's chat template.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from peml.errors import DataError, ModelError
from peml.tasks import Example
from peml.tasks.template import join_answer


def trailing_space(prompt: str) -> str:
    """The white space at a prompt's end, which is tokenised as part of the answer."""
    return prompt[len(prompt.rstrip()) :]


def find_frame(
    tokenizer: Any, argument: Literal["text", "text_target"]
) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer adds before every text, and those it adds after.

    ``argument`` is the tokenizer's argument for the text; some treat targets differently.

    Raises:
        ModelError: Without them, a text's tokens are not a part of its tokens with them.
    """
    framed, bare = (
        tokenizer(**{argument: "a"}, add_special_tokens=special)["input_ids"]
        for special in (True, False)
    )
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise ModelError(
        f"the tokenizer turns 'a' into {framed}, and without special tokens into {bare}: PEML "
        "can't tell which special tokens it adds",
        allowed="a tokenizer that adds special tokens only before and after a text's tokens",
        action="correct the tokenizer's post-processor",
    )


def start_token(tokenizer: Any) -> int:
    """The token that replaces an empty prompt: the start token, else the end token.

    Raises:
        DataError: The tokenizer has neither.
    """
    token = _first_token(tokenizer)
    if token is None:
        raise DataError(
            "the prompt is empty, and the model's tokenizer has no start or end token.",
            allowed="a prompt with text, or a tokenizer with a start or end token",
            action="correct the row or the template",
        )
    return token


def _first_token(tokenizer: Any) -> int | None:
    token: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if token is None else token


class Seam:
    """Tokenises prompts and the answers after them, for decoder-only models."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id

    def gap(self, example: Example) -> str:
        """White space at the prompt's end, with which an answer begins."""
        return trailing_space(example.prompt)

    def context(self, example: Example) -> list[int]:
        """The tokens of an example's prompt."""
        return self.tokens(example.prompt)

    def tokens(self, prompt: str) -> list[int]:
        """A prompt's tokens; at least a start token."""
        return self.whole(prompt.rstrip())

    def whole(self, text: str) -> list[int]:
        """The tokens of a text with white space at its end; at least a start token."""
        return self._context(self._encode([text])[0])

    def split(self, example: Example, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens, and those of each answer after it.

        Raises:
            DataError: The prompt is empty, and the tokenizer has no start or end token.
        """
        prompt = example.prompt
        joined = [prompt + join_answer(prompt, answer) for answer in answers]
        before, *wholes = self._encode([prompt.rstrip(), *joined])
        context = self._context(before)
        tokens = [whole[len(before) :] for whole in wholes]
        if not before:  # no second start token if the answer begins with one
            tokens = [ids[1:] if ids[:1] == context else ids for ids in tokens]
        return context, tokens

    @cached_property
    def start(self) -> list[int]:
        """The special tokens that the tokenizer adds before every text."""
        return find_frame(self._tokenizer, "text")[0]

    @cached_property
    def _spelled_start(self) -> str:
        token = _first_token(self._tokenizer)
        return "" if token is None else str(self._tokenizer.decode([token]))

    def _context(self, ids: list[int]) -> list[int]:
        return ids or [start_token(self._tokenizer)]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        start = self._spelled_start
        tokens = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [
            # Some templates write the start token themselves.
            ids if start and text.startswith(start) else [*self.start, *ids]
            for text, ids in zip(texts, tokens, strict=True)
        ]
