"""Text-to-text families: a shared language model head; options are scored by likelihood."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Unpack, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from peml.data.batch import IGNORED, TaskBatch
from peml.errors import DataError
from peml.models.families.base import (
    EncodedSequence,
    Family,
    ModelOutput,
    Purpose,
    is_named_decoder,
    pad_groups,
    refuse_equal_tokens,
    refuse_no_tokens,
)
from peml.models.families.chat import ChatSeam, Seams
from peml.models.families.decoding import decode
from peml.models.families.seam import find_frame, trailing_space
from peml.models.families.spelling import is_altered
from peml.models.families.stopping import Limits
from peml.models.logits import Positions
from peml.models.prompt import build_inputs, packed_rows
from peml.tasks import Example, Task, TaskType
from peml.tasks.label import right_option


class TextFamily(Family):
    """The common part of seq2seq and causal models.

    In training, the target is the right option or text, and an example's loss is the mean over
    its target tokens, so that long answers don't dominate. In scoring, every option is a separate
    sequence and its score is the log-likelihood of its tokens. Regression predicts the mean of the
    possible scores, weighted by the likelihoods of their texts.
    """

    task_types: ClassVar[frozenset[TaskType]] = frozenset(TaskType)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._compared: object = None  # the options last found to have different tokens

    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """One sequence (train, generate), or one per option (score)."""
        if purpose == "generate":
            return [self._prompt(task, example)]
        if task.type.generates:
            self.spelling.refuse_frame(str(example.label))
            return [self._text(task, example, str(example.label))]
        right = right_option(task, example)
        chosen = [right] if purpose == "train" else list(range(len(example.options)))
        return self._options(task, example, chosen, right)

    @abstractmethod
    def _prompt(self, task: Task, example: Example) -> EncodedSequence: ...

    @abstractmethod
    def _split(
        self, task: Task, example: Example, answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Tokens of a prompt and of answers to it, before cutting and without end token."""

    def _text(self, task: Task, example: Example, target: str) -> EncodedSequence:
        ids, (answer,) = self._split(task, example, [target])
        altered = is_altered(target, self.spelling.decode(answer))
        return replace(self._fit_text(ids, self._close(task, answer)), altered=altered)

    @abstractmethod
    def _fit_text(self, context: list[int], answer: list[int]) -> EncodedSequence:
        """A target text after its prompt; either is cut if it is too long."""

    @abstractmethod
    def _fit_options(self, context: list[int], answers: list[list[int]]) -> list[EncodedSequence]:
        """Answers after their prompt; only an answer that alone is too long is cut."""

    def _options(
        self, task: Task, example: Example, chosen: list[int], right: int
    ) -> list[EncodedSequence]:
        """The chosen options after the prompt; new sets of options are all compared first."""
        compared = (example.options, bool(example.turns), trailing_space(example.prompt))
        encoded = chosen if compared == self._compared else list(range(len(example.options)))
        texts = [example.options[number] for number in encoded]
        context, answers = self._split(task, example, texts)
        spelled = list(map(self.spelling.decode, answers))
        for number, text, decoded in zip(encoded, texts, spelled, strict=True):
            if not decoded.strip():
                refuse_no_tokens(number, text)
        refuse_equal_tokens(texts, answers, self.tokenizer)
        self._compared = compared
        places = [encoded.index(number) for number in chosen]
        closed = [self._close(task, answers[place]) for place in places]
        sequences = self._fit_options(context, closed)
        return [
            replace(
                sequence,
                target=float(number == right),
                altered=is_altered(texts[place], spelled[place]),
            )
            for sequence, number, place in zip(sequences, chosen, places, strict=True)
        ]

    def _close(self, task: Task, answer: list[int]) -> list[int]:
        return [*answer, self.end_token(task)]

    def _fit(self, ids: list[int], room: int) -> list[int]:
        """Cuts a long prompt after its start: a start token, or the code of a language.

        The end stays, since it holds the question.
        """
        if len(ids) <= room:
            return ids
        starts = (self._text_start, [self.tokenizer.bos_token_id])
        start = next((each for each in starts if each and ids[: len(each)] == each), [])
        return start + ids[len(ids) - room + len(start) :]

    @cached_property
    def _text_start(self) -> list[int]:
        return find_frame(self.tokenizer, "text")[0]

    def altered_target(self, task: Task, example: Example) -> tuple[str, str] | None:
        """The first answer of an example that the tokenizer changes, and the changed text."""
        generates = task.type.generates
        texts = [str(example.label)] if generates else list(example.options)
        _, answers = self._split(task, example, texts)
        pairs = zip(texts, map(self.spelling.decode, answers), strict=True)
        return next((pair for pair in pairs if is_altered(*pair)), None)

    def build_heads(
        self, tasks: Sequence[Task], model: nn.Module, generator: torch.Generator
    ) -> nn.Module | None:
        """None, since all tasks use the language model head."""
        return None

    @abstractmethod
    def _target_losses(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Loss of every target token, and the index of its sequence, (targets,)."""

    def forward(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        batch: TaskBatch,
        prompt: Tensor | None = None,
    ) -> ModelOutput:
        """Scores the target tokens of every sequence."""
        nll, rows = self._target_losses(model, batch, prompt)
        total = nll.new_zeros(len(batch.groups)).index_add(0, rows, nll)
        tokens = total.new_zeros(len(total)).index_add(0, rows, torch.ones_like(nll))
        # Only right options count in the loss; in training all sequences are right.
        right = batch.targets > 0
        losses = total.new_zeros(batch.examples).index_add(
            0, batch.groups, torch.where(right, total / tokens, 0.0)
        )
        return ModelOutput(losses.mean(), losses, -total)

    @abstractmethod
    def _generation_inputs(
        self, model: Any, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[dict[str, Tensor], int]:
        """The model's inputs, and the number of given tokens at the start of each output row."""

    def generate(
        self, model: Any, batch: TaskBatch, prompt: Tensor | None = None, **limits: Unpack[Limits]
    ) -> list[str | None]:
        """Greedy decoding; see `Family.generate`."""
        inputs, given = self._generation_inputs(model, batch, prompt)
        return decode(model, inputs, given, self.spelling, limits)

    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Log-likelihoods of the options, or the expected score for regression."""
        return self.answer(pad_groups(output.scores, batch.groups, batch.examples), task)

    def answer(self, scores: Tensor, task: Task) -> Tensor:
        """The options' scores unchanged; for regression the expected score, (examples,).

        `scores` are (examples, options); for regression the log-likelihoods of the scores' texts.
        """
        if task.scale is None:
            return scores
        values = torch.linspace(task.scale.low, task.scale.high, scores.shape[1])
        return scores.softmax(1) @ values.to(scores)


class CausalFamily(TextFamily):
    """Decoder-only models: prompt and target in one sequence."""

    name: ClassVar[str] = "causal"
    version: ClassVar[int] = 2
    auto_class: ClassVar[Any] = AutoModelForCausalLM
    packs: ClassVar[bool] = True
    shards: ClassVar[bool] = True

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Models that continue text; those that also fill masks only if saved as a decoder."""
        if getattr(config, "is_encoder_decoder", False):
            return False
        return is_named_decoder(config) or (
            config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )

    holds_contexts: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: tuple[str, list[int]] = ("", [])

    @cached_property
    def _seams(self) -> Seams:
        return Seams(self.spelling)

    def check_chat(self, task: Task) -> None:
        """Refuses tokenizers without a chat template; see `Family.check_chat`."""
        self._seams.check_chat(task)

    def chat_template(self, task: Task) -> str:
        """The template with its fixed dates."""
        return "" if task.chat is None else self._seams.chat(task.chat).template

    def end_token(self, task: Task) -> int:
        """The tokenizer's end token; in a chat, the token that ends the assistant's turn."""
        return self._seams.of(task).end

    def context_tokens(self, text: str) -> list[int]:
        """The tokens of a context, with which every prompt that has the context begins."""
        return self._seams.plain.tokens(text)

    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """As `Family.encode`, without the tokens of a context that the model holds."""
        self._hold(example.context)
        sequences = super().encode(task, example, purpose)
        if purpose == "train" and any(turn.learnt for turn in example.turns):
            sequences = [self._with_earlier(task, example, each) for each in sequences]
        return sequences

    def _with_earlier(
        self, task: Task, example: Example, sequence: EncodedSequence
    ) -> EncodedSequence:
        """A chat whose earlier answers are targets as well, as far as they weren't cut."""
        seam, labels = self._seams.of(task), list(sequence.labels or ())
        assert isinstance(seam, ChatSeam)
        whole = seam.context(example)
        kept = next(place for place, label in enumerate(labels) if label != IGNORED)
        dropped = len(whole) - kept  # after the start tokens
        for place in (place for each in seam.learnt(example) for place in each):
            if place > dropped and sequence.input_ids[place - dropped] == whole[place]:
                labels[place - dropped] = whole[place]
        return replace(sequence, labels=labels)

    def read_prompt(self, task: Task, example: Example) -> tuple[list[int], str]:
        """All tokens of a prompt after the context, never cut, and its `EncodedSequence.gap`."""
        self._hold(example.context)
        seam = self._seams.of(task)
        return self._behind_context(seam.context(example)), seam.gap(example)

    def read_text(self, text: str) -> list[int]:
        """All tokens of a text that is continued as it is, outside of any task."""
        return self._seams.plain.whole(text)

    def _hold(self, context: str) -> None:
        if context != self._held[0]:
            self._held = (context, self.context_tokens(context) if context else [])

    def _behind_context(self, ids: list[int]) -> list[int]:
        """A prompt's tokens after those of the context.

        Raises:
            DataError: The prompt's first tokens are others, so it can't follow the context.
        """
        held = self._held[1]
        if ids[: len(held)] != held:
            raise DataError(
                "the tokenizer joins the end of the context with the beginning of this row, so the "
                "row can't follow keys and values that were computed before",
                allowed="a context whose tokens are the first ones of every prompt",
                action="end the header with a full stop, or choose a method without a context",
            )
        return ids[len(held) :]

    def _prompt(self, task: Task, example: Example) -> EncodedSequence:
        ids, gap = self.read_prompt(task, example)
        fitted = self._fit(ids, self.max_length)
        return EncodedSequence(fitted, 1.0, cut=len(ids) - len(fitted), gap=gap)

    def _split(
        self, task: Task, example: Example, answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        ids, tokens = self._seams.of(task).split(example, answers)
        return self._behind_context(ids), tokens

    def _fit_text(self, context: list[int], answer: list[int]) -> EncodedSequence:
        # The target has priority, but the prompt keeps at least a quarter of the length.
        target = answer[: self.max_length - min(len(context), self.max_length // 4)]
        fitted = self._fit(context, self.max_length - len(target))
        return _joined(fitted, target, len(context) + len(answer) - len(fitted) - len(target))

    def _fit_options(self, context: list[int], answers: list[list[int]]) -> list[EncodedSequence]:
        # All options get the same context: the part that fits before the longest option, at least
        # one token.
        most = self.max_length - 1
        fitted = self._fit(context, self.max_length - min(most, max(map(len, answers))))
        lost = len(context) - len(fitted)
        return [_joined(fitted, each[:most], lost + max(0, len(each) - most)) for each in answers]

    def _target_losses(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        rows, places = batch.scored(before=1)
        targets = cast(Tensor, batch.labels)[rows, places]
        shift = -1 if prompt is None else len(prompt) - 1  # a token is predicted one place earlier
        lines, columns, packed = rows, places + shift, packed_rows(batch, prompt)
        if packed is not None:
            lines, columns = torch.zeros_like(rows), packed.find(rows, columns)
        positions = Positions(lines, columns, everywhere=self.logits_everywhere)
        inputs = build_inputs(model, batch, prompt)
        return positions.nll(model, targets, **inputs, use_cache=False), rows

    def room_for_generation(self, prompt_length: int = 0) -> int | None:
        """The positions that are left after the prompt and the longest input."""
        if self.positions is None:
            return None
        return self.positions - prompt_length - self.max_length

    def _generation_inputs(
        self, model: Any, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[dict[str, Tensor], int]:
        inputs = build_inputs(model, batch, prompt, padded_left=True)
        # For input embeddings, Transformers returns the new tokens only.
        return inputs, batch.input_ids.shape[1] if prompt is None else 0


def _joined(context: list[int], answer: list[int], cut: int) -> EncodedSequence:
    labels = [IGNORED] * len(context) + answer
    return EncodedSequence(context + answer, 1.0, labels=labels, cut=cut)
