r"""Splits the tokens of a chat into those before the assistant's answer and those of the answer.

The tokenizer's chat template writes both texts, and no other special tokens are added::

    prompt    <|im_start|>user ... Mood:<|im_end|> <|im_start|>assistant \n    what a server sends
    whole     <|im_start|>user ... Mood:<|im_end|> <|im_start|>assistant \n positive <|im_end|> \n
    answer                                                                   positive
    end                                                                               <|im_end|>

The end is the special token that the template puts behind an answer; without one, the tokenizer's
end token. It is trained, scored and ends a generated text.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from jinja2 import TemplateError

from peml.errors import DataError, ModelError
from peml.models.families.seam import Seam, start_token
from peml.models.families.spelling import Spelling
from peml.tasks import Chat, Example, Task, Turn

_TODAY = date(2024, 7, 26)
"""What templates that write today's date write: prompts mustn't differ from one day to the next."""

_DATE_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_ASKED = (Turn("user", "question"),)


class ChatSeam:
    """Tokenises chats and the answers after them.

    Attributes:
        template: The chat template, with fixed dates.
        end: The token that ends an answer.
        has_system: Whether the template has a system turn. Without one, its text stands at the
            beginning of the user's first turn.

    Raises:
        ModelError: The tokenizer has no chat template, or one that can't be used.
    """

    def __init__(self, spelling: Spelling, variables: Mapping[str, Any]) -> None:
        tokenizer = spelling.tokenizer
        self._spelling = spelling
        self._variables = variables
        try:
            template: str = tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(
                "the model's tokenizer has no chat template",
                allowed="a tokenizer with a chat template, as chat models have",
                action="choose a chat model, or set tasks.chat: false (chat, in a task's file)",
            ) from error
        self.template = _DATE_CALL.sub(lambda call: json.dumps(f"{_TODAY:{call[2]}}"), template)
        self.has_system = True
        self._special = sorted(spelling.special.values(), key=len, reverse=True)
        try:
            asked, whole = self._render(_ASKED), self._render((*_ASKED, Turn("assistant", "reply")))
            self._end = self._find_end(self._tail(asked, whole, "reply"))
        except DataError as error:
            raise ModelError(
                f"the tokenizer's chat template can't be used: {error.problem}",
                allowed=error.allowed,
                action=error.action,
            ) from error
        marks = [token for token in self._special if token in whole]
        self._marks = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        named = tokenizer.convert_tokens_to_ids(self._end) if self._end else None
        self.end: int = tokenizer.eos_token_id if named is None else named
        try:
            shown = self._render((Turn("system", "instruction"), *_ASKED))
            self.has_system = "instruction" in shown
        except DataError:
            self.has_system = False

    def gap(self, example: Example) -> str:
        """White space that an answer begins with: none is taken from the prompt."""
        return ""

    def context(self, example: Example) -> list[int]:
        """The tokens in front of the answer."""
        return self._context(self._render(self._checked(example.turns)))

    def split(self, example: Example, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The tokens in front of the answers, and those of each answer without the end token.

        Raises:
            DataError: The template refuses the turns or changes an answer, or a turn contains
                what separates turns.
        """
        return self._split(self._checked(example.turns), answers)

    def learnt(self, example: Example) -> list[range]:
        """Where the learnt answers among the turns stand in the context's tokens, with their ends.

        Raises:
            DataError: The template writes an earlier answer otherwise than a last one.
        """
        turns = self._checked(example.turns)
        whole, found = self._context(self._render(turns)), []
        for number, turn in enumerate(turns):
            if not turn.learnt:
                continue
            context, (answer,) = self._split(turns[:number], [turn.content])
            ids = [*context, *answer, *([self.end] if self._end else [])]
            if whole[: len(ids)] != ids:
                raise DataError(
                    f"the chat template writes the answer of turn {number} (from 0) otherwise "
                    "between turns than at the end of a chat, so it can't be trained on there.",
                    allowed="a template that writes all answers alike",
                    action="set train_on: last in the task's file, or write a row per answer",
                )
            found.append(range(len(context), len(ids)))
        return found

    def _split(
        self, turns: Sequence[Turn], answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        prompt = self._render(turns)
        context = self._context(prompt)
        return context, [self._answer(turns, prompt, context, answer) for answer in answers]

    def _answer(
        self, turns: Sequence[Turn], prompt: str, context: list[int], answer: str
    ) -> list[int]:
        whole = self._render(self._checked((*turns, Turn("assistant", answer.strip()))))
        tail = self._tail(prompt, whole, answer.strip())
        if not tail.lstrip().startswith(self._end):
            raise self._odd(f"ends an answer with {tail!r}, and others with {self._end!r}")
        space = tail[: len(tail) - len(tail.lstrip())] if self._end else ""
        ended = whole[: len(whole) - len(tail)] + space + self._end
        ids = self._spelling.tokens(ended)
        if ids[: len(context)] != context:
            # An answer can change the tokens before it (to GPT-2's tokenizer, "\n\n" is one token
            # at a text's end, and two before a word). A model is asked with the tokens of the
            # prompt alone, so it is trained and scored after these too.
            ids = [*context, *self._spelling.tokens(ended.removeprefix(prompt))]
        return ids[len(context) : -1 if self._end else None]

    def _context(self, prompt: str) -> list[int]:
        return self._spelling.tokens(prompt) or [start_token(self._spelling.tokenizer)]

    def _tail(self, prompt: str, whole: str, answer: str) -> str:
        """The text that the template writes after an answer."""
        if not whole.startswith(prompt):
            raise self._odd(f"asks for an answer with {prompt!r}, and writes {whole!r} with one")
        written = whole.removeprefix(prompt).lstrip() if answer else whole.removeprefix(prompt)
        before = written[: max(0, written.find(answer))] or written
        if not written.startswith(answer):
            raise self._odd(f"writes {before!r} in front of the answer {answer!r}, or changes it")
        return written.removeprefix(answer)

    def _find_end(self, tail: str) -> str:
        for token in self._special:
            if tail.lstrip().startswith(token):
                return token
        if tail.strip():
            raise self._odd(f"ends an answer with {tail!r}, which is no special token")
        return ""

    def _checked(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns; refuses those that contain a token with which the template separates turns."""
        for turn in turns:
            found = self._marks.search(turn.content)
            if found is not None:
                raise DataError(
                    f"the {turn.role}'s turn contains {found[0]!r}, which the chat template "
                    "separates turns with.",
                    allowed="texts without the tokens that separate turns",
                    action="remove it from the row or the template, or set tasks.chat: false",
                )
        return turns

    def _render(self, turns: Sequence[Turn]) -> str:
        if not self.has_system and turns[0].role == "system":
            system, first, *others = turns
            turns = [Turn(first.role, f"{system.content}\n\n{first.content}"), *others]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text: str = self._spelling.tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=turns[-1].role != "assistant",
                **self._variables,
            )
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"the chat template refuses the turns {roles}: {error}.",
                allowed="turns that the model's chat template can write",
                action="correct the turns, or choose another model",
            ) from error
        return text

    def _odd(self, what: str) -> DataError:
        return DataError(
            f"the chat template {what}.",
            allowed="a template that asks with the beginning of an answered chat, and ends an "
            "answer with a special token or nothing",
            action="set the template's variables (chat.variables, such as enable_thinking: false), "
            "choose another model, or set tasks.chat: false",
        )


class Seams:
    """The seams of one tokenizer: the plain one, and one per set of a chat template's variables."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._chats: dict[str, ChatSeam] = {}
        self.plain = Seam(spelling.tokenizer)

    def of(self, task: Task) -> Seam | ChatSeam:
        """The seam of a task's prompts."""
        return self.plain if task.chat is None else self.chat(task.chat)

    def chat(self, chat: Chat) -> ChatSeam:
        """The seam of chats; raises as `ChatSeam`."""
        key = json.dumps(chat.variables, sort_keys=True)
        if key not in self._chats:
            self._chats[key] = ChatSeam(self._spelling, chat.variables)
        return self._chats[key]

    def check_chat(self, task: Task) -> None:
        """Refuses tasks that can't be asked as a chat, and warns if there is no system turn.

        Raises:
            ModelError: The tokenizer has no chat template that can be used, or the method holds the
                beginning of the task's prompts.
        """
        chat = task.chat or Chat()
        if task.context:
            raise ModelError(
                f"task {task.name!r} is asked through a chat template, and the method holds the "
                "beginning of its plain prompt as a context",
                allowed="a chat, or a method with a context",
                action="set tasks.chat: false, or choose another method",
            )
        if not self.chat(chat).has_system and (chat.system or task.header):
            warnings.warn(
                "the model's chat template has no system turn: its text stands at the beginning "
                "of the user's first turn",
                stacklevel=2,
            )
