"""Encoders (BERT, RoBERTa, MiniLM, ...): a pooled vector and a linear head per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel

from peml.data.batch import TaskBatch
from peml.models.families.base import EncodedSequence, Family, ModelOutput, Purpose, pad_groups
from peml.models.heads import TaskHeads
from peml.models.prompt import build_inputs, cut_prompt
from peml.tasks import Example, Task, TaskType

__all__ = ["EncoderFamily"]


class EncoderFamily(Family):
    """Reads one or two segments, answers through a head."""

    name: ClassVar[str] = "encoder"
    task_types: ClassVar[frozenset[TaskType]] = frozenset(TaskType) - {TaskType.GENERATION}
    auto_class: ClassVar[Any] = AutoModel

    def encode(self, task: Task, example: Example, purpose: Purpose) -> list[EncodedSequence]:
        """One sequence a row, or one an option in multiple choice."""
        if task.type is not TaskType.MULTIPLE_CHOICE:
            return [self._sequence(example.segments, float(example.label))]
        context = " ".join(example.segments)
        return [
            self._sequence((context, option), float(number == example.label))
            for number, option in enumerate(example.options)
        ]

    def _sequence(self, segments: tuple[str, ...], target: float) -> EncodedSequence:
        encoded = self.tokenizer(*segments, verbose=False)
        length = len(encoded["input_ids"])
        if length > self.max_length:
            encoded = self.tokenizer(
                *segments, truncation="longest_first", max_length=self.max_length
            )
        return EncodedSequence(
            input_ids=encoded["input_ids"],
            target=target,
            token_type_ids=encoded.get("token_type_ids"),
            cut=max(0, length - self.max_length),
        )

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
        hidden = model(**build_inputs(model, batch, prompt)).last_hidden_state
        hidden = cut_prompt(hidden, prompt)  # a head sees tokens, the first of them is [CLS]
        logits = heads(self._pool(hidden, batch.attention_mask))
        losses = heads.losses(logits, batch.targets, batch.task_ids, batch.groups, batch.examples)
        return ModelOutput(losses.mean(), losses, logits)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "first":
            return hidden[:, 0]
        weights = mask.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(1) / weights.sum(1)

    def predict(
        self, output: ModelOutput, heads: nn.Module | None, batch: TaskBatch, task: Task, index: int
    ) -> Tensor:
        """Logits of the task's own columns; options of multiple choice side by side."""
        scores = cast(TaskHeads, heads).scores(output.scores, index)
        if task.type is TaskType.MULTIPLE_CHOICE:
            return pad_groups(scores, batch.groups, batch.examples)
        return scores
