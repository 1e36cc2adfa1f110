"""Encoder-decoder models: the encoder reads the prompt, the decoder writes the answer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from peml.data.batch import TaskBatch
from peml.models.families.base import EncodedSequence
from peml.models.families.decoding import behind_start, start_of_answers
from peml.models.families.seam import find_frame, start_token
from peml.models.families.text import TextFamily
from peml.models.logits import Positions
from peml.models.prompt import build_inputs
from peml.tasks import Example, Task


class Seq2SeqFamily(TextFamily):
    """Encoder-decoder models: the encoder reads the prompt, the decoder writes the target."""

    name: ClassVar[str] = "seq2seq"
    version: ClassVar[int] = 3
    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Models with an encoder and a decoder."""
        return bool(getattr(config, "is_encoder_decoder", False))

    def _prompt(self, task: Task, example: Example) -> EncodedSequence:
        return self._source(self._source_ids(example.prompt))

    def _source(self, ids: list[int]) -> EncodedSequence:
        fitted = self._fit(ids, self.max_length)
        return EncodedSequence(fitted, 1.0, cut=len(ids) - len(fitted))

    def _split(
        self, task: Task, example: Example, answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """The decoder's target is tokenised separately from the prompt."""
        targets = self.tokenizer(text_target=list(answers), add_special_tokens=False, verbose=False)
        return self._source_ids(example.prompt), targets["input_ids"]

    def _source_ids(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer(prompt, verbose=False)["input_ids"]
        return ids or [start_token(self.tokenizer)]

    @cached_property
    def _target_start(self) -> list[int]:
        """What the tokenizer puts before a target, such as BART's ``<s>`` or a language's code.

        A target ends at the end token, although mBART's tokenizer puts a code behind it.
        """
        return find_frame(self.tokenizer, "text_target")[0]

    def _close(self, task: Task, answer: list[int]) -> list[int]:
        return super()._close(task, [*self._target_start, *answer])

    def _fit_text(self, context: list[int], answer: list[int]) -> EncodedSequence:
        source, labels = self._source(context), answer[: self.max_length]
        return replace(source, labels=labels, cut=source.cut + len(answer) - len(labels))

    def _fit_options(self, context: list[int], answers: list[list[int]]) -> list[EncodedSequence]:
        return [self._fit_text(context, answer) for answer in answers]

    def _target_losses(
        self, model: nn.Module, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        labels = cast(Tensor, batch.labels)
        rows, places = batch.scored()
        inputs = build_inputs(model, batch, prompt)
        positions = Positions(rows, places, everywhere=self.logits_everywhere)
        # Shifted here, since with `labels` the model would compute a second, unused loss.
        inputs["decoder_input_ids"] = behind_start(labels, cast(Any, model).config)
        return positions.nll(model, labels[rows, places], **inputs, use_cache=False), rows

    def _generation_inputs(
        self, model: Any, batch: TaskBatch, prompt: Tensor | None
    ) -> tuple[dict[str, Tensor], int]:
        inputs = build_inputs(model, batch, prompt)
        given = [cast(int, start_of_answers(model.config)), *self._target_start]
        if self._target_start:  # the model need not guess what begins every target
            rows = len(batch.input_ids)
            start = torch.tensor([given] * rows, device=batch.input_ids.device)
            inputs["decoder_input_ids"] = start
        return inputs, len(given)
