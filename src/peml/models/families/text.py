"""Text-to-text families: one shared head, label words scored by likelihood."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from peml.data.batch import TaskBatch
from peml.models.families.base import (
    EncodedSequence,
    Family,
    ModelOutput,
    Purpose,
    pad_groups,
    refuse_no_tokens,
)
from peml.models.families.decoding import decode
from peml.models.prompt import build_inputs, cut_prompt
from peml.tasks import Example, Task, TaskType, join_answer, right_option

__all__ = ["CausalFamily", "Seq2SeqFamily", "TextFamily"]

_IGNORED = -100


class TextFamily(Family):
    """What seq2seq and causal models share.

    In training the target is the right option or text, and an example's loss is the mean over
    its target tokens, so that long answers don't drown short ones. In scoring every option is a
    sequence of its own and its score is the log-likelihood of its tokens. A regression answers
    with the mean of the spelled scores under their likelihoods.
    """

    task_types: ClassVar[frozenset[TaskType]] = frozenset(TaskType)

    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """One sequence (train, generate), or one an option (score)."""
        if purpose == "generate":
            return [self._prompt(example.prompt)]
        if task.type is TaskType.GENERATION:
            self.spelling.refuse_frame(str(example.label))
            return self._text(example.prompt, str(example.label))
        right = right_option(task, example)
        chosen = [right] if purpose == "train" else range(len(example.options))
        return self._options(example, chosen, right)

    @abstractmethod
    def _prompt(self, prompt: str) -> EncodedSequence: ...

    @abstractmethod
    def _text(self, prompt: str, target: str) -> list[EncodedSequence]:
        """A prompt and what is to be generated; either is cut where it is too long."""

    @abstractmethod
    def _options(
        self, example: Example, chosen: Sequence[int], right: int
    ) -> list[EncodedSequence]:
        """Some of a row's options after its prompt, whole unless one alone is too long."""

    def _fit(self, ids: list[int], room: int) -> list[int]:
        """A prompt that is too long keeps its start token, and its end: the question is there."""
        if len(ids) <= room:
            return ids
        start = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return start + ids[len(ids) - room + len(start) :]

    def _refuse_nothing(self, number: int, option: str, target: list[int]) -> None:
        """Refuses an option without tokens of its own: there is the gap before it, and the end."""
        text = [token for token in target if token != self.tokenizer.eos_token_id]
        if text in ([], self._gap):
            refuse_no_tokens(number, option)

    @cached_property
    def _gap(self) -> list[int]:
        gap: list[int] = self.tokenizer(" ", add_special_tokens=False)["input_ids"]
        return gap

    def build_heads(
        self, tasks: Sequence[Task], model: nn.Module, generator: torch.Generator
    ) -> nn.Module | None:
        """None: the language model head serves all tasks."""
        return None

    @abstractmethod
    def _token_logits(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits (sequences, length, vocabulary) and the labels they answer to (.., length)."""

    def forward(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        batch: TaskBatch,
        prompt: Tensor | None = None,
    ) -> ModelOutput:
        """Scores the target tokens of every sequence."""
        logits, labels = self._token_logits(model, batch, prompt)
        nll = nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), labels, ignore_index=_IGNORED, reduction="none"
        )
        total = nll.sum(1)
        tokens = (labels != _IGNORED).sum(1)
        # Only the right option's likelihood is a loss; in training that is every sequence.
        right = batch.targets > 0
        losses = total.new_zeros(batch.examples).index_add(
            0, batch.groups, torch.where(right, total / tokens, 0.0)
        )
        return ModelOutput(losses.mean(), losses, -total)

    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Log-likelihoods of the options, or a regression's expected score."""
        return self.answer(pad_groups(output.scores, batch.groups, batch.examples), task)

    def answer(self, scores: Tensor, task: Task) -> Tensor:
        """The options' scores as they are, or a regression's expected score, (examples,).

        Args:
            scores: (examples, options); a regression's are log-likelihoods of the spelled scores.
            task: The task they belong to.
        """
        if task.scale is None:
            return scores
        values = torch.linspace(task.scale.low, task.scale.high, scores.shape[1])
        return scores.softmax(1) @ values.to(scores)


class CausalFamily(TextFamily):
    """Decoder-only models: prompt and target in one sequence."""

    name: ClassVar[str] = "causal"
    auto_class: ClassVar[Any] = AutoModelForCausalLM

    def _prompt(self, prompt: str) -> EncodedSequence:
        ids = self._prompt_ids(prompt)
        kept = self._fit(ids, self.max_length)
        return EncodedSequence(kept, 1.0, cut=len(ids) - len(kept))

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer(prompt, verbose=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        return ids[:-1] if ids and ids[-1] == eos else ids  # some tokenizers close every text

    def _text(self, prompt: str, target: str) -> list[EncodedSequence]:
        ids, wanted = self._prompt_ids(prompt), self._target_ids(prompt, target)
        # The target comes first, but a very long one leaves the prompt a quarter of the room.
        answer = wanted[: self.max_length - min(len(ids), self.max_length // 4)]
        kept = self._fit(ids, self.max_length - len(answer))
        return [_joined(kept, answer, 1.0, len(ids) + len(wanted) - len(kept) - len(answer))]

    def _options(
        self, example: Example, chosen: Sequence[int], right: int
    ) -> list[EncodedSequence]:
        ids = self._prompt_ids(example.prompt)
        answers = [self._target_ids(example.prompt, example.options[each]) for each in chosen]
        for number, answer in zip(chosen, answers, strict=True):
            self._refuse_nothing(number, example.options[number], answer)
        # Options are compared after the same context: what the longest leaves of it, a token or
        # more.
        most = self.max_length - min(len(ids), 1)
        kept = self._fit(ids, self.max_length - min(most, max(map(len, answers))))
        lost = len(ids) - len(kept)
        return [
            _joined(kept, answer[:most], float(number == right), lost + max(0, len(answer) - most))
            for number, answer in zip(chosen, answers, strict=True)
        ]

    def _target_ids(self, prompt: str, target: str) -> list[int]:
        text = join_answer(prompt, target)
        wanted = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*wanted, self.tokenizer.eos_token_id]

    def _token_logits(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits = model(**build_inputs(model, batch, prompt), use_cache=False).logits
        return cut_prompt(logits, prompt)[:, :-1], cast(Tensor, batch.labels)[:, 1:]

    def room_for_generation(self, prompt_length: int = 0) -> int | None:
        """What the input, in the same sequence, leaves of the positions."""
        if self.positions is None:
            return None
        return self.positions - prompt_length - self.max_length

    def generate(
        self,
        model: Any,
        batch: TaskBatch,
        prompt: Tensor | None = None,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[str | None]:
        """Greedy continuation of left-padded inputs."""
        inputs = build_inputs(model, batch, prompt, padded_left=True)
        # Given embeddings, Transformers answers with the new tokens alone.
        given = batch.input_ids.shape[1] if prompt is None else 0
        return decode(model, inputs, given, self.spelling, max_new_tokens=max_new_tokens, stop=stop)


class Seq2SeqFamily(TextFamily):
    """Encoder-decoder models: the prompt goes in, the target comes out."""

    name: ClassVar[str] = "seq2seq"
    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM

    def _prompt(self, prompt: str) -> EncodedSequence:
        ids = self.tokenizer(prompt, verbose=False)["input_ids"]
        kept = self._fit(ids, self.max_length)
        return EncodedSequence(kept, 1.0, cut=len(ids) - len(kept))

    def _text(self, prompt: str, target: str) -> list[EncodedSequence]:
        source, wanted = self._prompt(prompt), self._target_ids(target)
        kept = wanted[: self.max_length]
        cut = source.cut + len(wanted) - len(kept)
        return [replace(source, labels=kept, cut=cut)]

    def _options(
        self, example: Example, chosen: Sequence[int], right: int
    ) -> list[EncodedSequence]:
        source = self._prompt(example.prompt)
        sequences = []
        for number in chosen:
            answer = self._target_ids(example.options[number])
            self._refuse_nothing(number, example.options[number], answer)
            kept = answer[: self.max_length]
            cut = source.cut + len(answer) - len(kept)
            target = float(number == right)
            sequences.append(replace(source, labels=kept, target=target, cut=cut))
        return sequences

    def _target_ids(self, target: str) -> list[int]:
        wanted: list[int] = self.tokenizer(text_target=target, verbose=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        closed = eos is None or (wanted and wanted[-1] == eos)
        return wanted if closed else [*wanted, eos]

    def _token_logits(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        labels = cast(Tensor, batch.labels)
        # Shifted by hand: given `labels`, the model would compute a second, unused loss.
        shifted = cast(Any, model).prepare_decoder_input_ids_from_labels(labels=labels)
        inputs = build_inputs(model, batch, prompt)
        logits = model(**inputs, decoder_input_ids=shifted, use_cache=False).logits
        return logits, labels

    def generate(
        self,
        model: Any,
        batch: TaskBatch,
        prompt: Tensor | None = None,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[str | None]:
        """Greedy decoding, after the decoder's start token."""
        inputs = build_inputs(model, batch, prompt)
        return decode(model, inputs, 1, self.spelling, max_new_tokens=max_new_tokens, stop=stop)


def _joined(context: list[int], answer: list[int], target: float, cut: int) -> EncodedSequence:
    labels = [_IGNORED] * len(context) + answer
    return EncodedSequence(context + answer, target, labels=labels, cut=cut)
