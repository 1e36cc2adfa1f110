"""Encoders (BERT, RoBERTa, MiniLM, ...): a pooled vector and a linear head per task."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from peml.data.batch import TaskBatch
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
from peml.models.heads import TaskHeads
from peml.models.prompt import build_inputs, cut_prompt, packed_rows
from peml.tasks import Example, Task, TaskType


class EncoderFamily(Family):
    """Reads one or two segments, and answers with a head."""

    name: ClassVar[str] = "encoder"
    task_types: ClassVar[frozenset[TaskType]] = frozenset(
        kind for kind in TaskType if not kind.generates
    )
    auto_class: ClassVar[Any] = AutoModel
    holds_contexts: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    shards: ClassVar[bool] = True

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Models that fill masks, unless they were saved as a decoder."""
        return (
            config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            and not getattr(config, "is_encoder_decoder", False)
            and not is_named_decoder(config)
        )

    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """One sequence per row, or one per option in multiple choice."""
        if task.type.has_own_options:
            return self._options(" ".join(example.segments), example)
        segments = example.segments
        encoded = self.tokenizer(*segments, verbose=False)
        cut = max(0, len(encoded["input_ids"]) - self.max_length)
        if cut:
            encoded = self._shortened(segments, "longest_first")
        return [_sequence(encoded, float(example.label), cut)]

    def context_tokens(self, text: str) -> list[int]:
        """The tokens of the text as a separate segment; rows are encoded without it."""
        tokens: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return tokens

    def _options(self, context: str, example: Example) -> list[EncodedSequence]:
        """One sequence per option.

        If it is too long, the context is cut at its beginning, since the question is at its end;
        an option that alone is too long is cut at its end. Options that are the same then are
        refused.
        """
        frame = self.tokenizer.num_special_tokens_to_add(pair=True)
        before = len(self.tokenizer(context, add_special_tokens=False, verbose=False)["input_ids"])
        sequences, answers = [], []
        for number, option in enumerate(example.options):
            encoded = self.tokenizer(context, option, verbose=False)
            length = len(encoded["input_ids"])
            if length == before + frame:
                refuse_no_tokens(number, option)
            cut = max(0, length - self.max_length)
            if 0 < cut < before:
                self.tokenizer.truncation_side = "left"
                try:
                    encoded = self._shortened((context, option), "only_first")
                finally:
                    self.tokenizer.truncation_side = "right"  # as `fit_tokenizer` sets it
            elif cut:
                encoded = self._shortened(("", option), "only_second")
            sequences.append(_sequence(encoded, float(number == example.label), cut))
            answers.append(encoded["input_ids"][before - length :])
        refuse_equal_tokens(example.options, answers, self.tokenizer)
        return sequences

    def _shortened(self, segments: tuple[str, ...], which: str) -> Any:
        return self.tokenizer(*segments, truncation=which, max_length=self.max_length)

    def build_heads(
        self, tasks: Sequence[Task], model: nn.Module, generator: torch.Generator
    ) -> nn.Module | None:
        """`TaskHeads` over the model's hidden size."""
        return TaskHeads(tasks, cast(Any, model).config.hidden_size, generator)

    def forward(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        batch: TaskBatch,
        prompt: Tensor | None = None,
    ) -> ModelOutput:
        """Pools the last hidden states and applies the heads."""
        heads = cast(TaskHeads, heads)
        logits = self.logits(model, heads, batch, prompt)
        losses = heads.losses(logits, batch.targets, batch.task_ids, batch.groups, batch.examples)
        return ModelOutput(losses.mean(), losses, logits)

    def logits(
        self, model: nn.Module, heads: nn.Module, batch: TaskBatch, prompt: Tensor | None = None
    ) -> Tensor:
        """Logits of all heads, (sequences, columns); arguments as for `forward`."""
        hidden = model(**build_inputs(model, batch, prompt)).last_hidden_state
        packed = packed_rows(batch, prompt)
        if packed is not None:
            hidden = packed.unpack(hidden)
        hidden = cut_prompt(hidden, prompt)  # so that the first position is [CLS]
        if self.pooling == "first":
            pooled = hidden[:, 0]
        else:
            weights = batch.attention_mask.to(hidden.dtype)[:, :, None]
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        logits: Tensor = heads(pooled)
        return logits

    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Logits of the task's columns; in multiple choice one column per option."""
        scores = cast(TaskHeads, heads).scores(output.scores, index)
        if task.type.has_own_options:
            return pad_groups(scores, batch.groups, batch.examples)
        return scores


def _sequence(encoded: Any, target: float, cut: int) -> EncodedSequence:
    return EncodedSequence(
        encoded["input_ids"], target, token_type_ids=encoded.get("token_type_ids"), cut=cut
    )
