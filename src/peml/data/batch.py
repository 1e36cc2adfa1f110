"""A batch of encoded examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that is not scored."""


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """Facts about a batch, read before it is moved to a device: reading from a GPU would block.

    Attributes:
        tokens: Real (unpadded) input tokens.
        task_rows: Task id to number of examples, for the tasks in the batch.
        examples: Task id and row number of each example.
        scored: Sequence and place of every label that is scored, (2, targets).
        first_scored: The smallest of these places, 0 if there is none.
    """

    tokens: int
    task_rows: Mapping[int, int]
    examples: tuple[tuple[int, int], ...]
    scored: Tensor
    first_scored: int

    @classmethod
    def of(cls, batch: TaskBatch) -> BatchFacts:
        """Reads the facts from the batch's tensors."""
        tasks = batch.tasks
        ids, counts = tasks.unique(return_counts=True)
        labels = batch.input_ids.new_empty(0, 0) if batch.labels is None else batch.labels
        scored = (labels != IGNORED).nonzero().T
        return cls(
            tokens=int(batch.attention_mask.sum()),
            task_rows=dict(zip(ids.tolist(), counts.tolist(), strict=True)),
            examples=tuple(zip(tasks.tolist(), batch.rows.tolist(), strict=True)),
            scored=scored,
            first_scored=int(scored[1].min()) if scored.numel() else 0,
        )


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """A padded batch of sequences, possibly of several tasks.

    An example has one sequence if an encoder classifies it, or one per option if options are
    scored. ``groups`` tells which sequences belong to the same example.

    Attributes:
        input_ids: Token ids, (sequences, length).
        attention_mask: 1 for real tokens, (sequences, length).
        targets: Class index, score, or 1.0 on the right option, (sequences,) float32.
        task_ids: Index of each sequence's task, (sequences,).
        groups: Index of each sequence's example, ascending from 0, (sequences,).
        rows: Row number of each example in its encoded split, (examples,).
        labels: Target token ids, -100 where not scored, (sequences, target_length), or None.
        token_type_ids: Segment ids, (sequences, length), or None.
        weights: Weight of each example's loss, (examples,) float32, or None for equal weights.
        packed: Place of each real token in the flattened rows, (tokens,), if the model is to read
            the rows as one sequence; else None.
        facts: Plain numbers about the batch; set by `to`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    task_ids: Tensor
    groups: Tensor
    rows: Tensor
    labels: Tensor | None = None
    token_type_ids: Tensor | None = None
    weights: Tensor | None = None
    packed: Tensor | None = None
    facts: BatchFacts | None = None

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.rows.shape[0]

    @property
    def tasks(self) -> Tensor:
        """Index of each example's task, (examples,)."""
        return self.task_ids.new_zeros(self.examples).scatter(0, self.groups, self.task_ids)

    @property
    def tokens(self) -> int:
        """Number of real (unpadded) input tokens."""
        return self.known.tokens

    @property
    def known(self) -> BatchFacts:
        """The facts; read from the tensors if they are not set."""
        return self.facts or BatchFacts.of(self)

    def scored(self, before: int = 0) -> tuple[Tensor, Tensor]:
        """Sequence and place of each scored label from place ``before`` on, both (targets,)."""
        if self.facts is not None and self.facts.first_scored >= before:
            rows, places = self.facts.scored
            return rows, places
        labels = cast(Tensor, self.labels)[:, before:]
        rows, places = (labels != IGNORED).nonzero(as_tuple=True)
        return rows, places + before

    def with_facts(self) -> TaskBatch:
        """The batch with its facts set."""
        return self if self.facts is not None else replace(self, facts=self.known)

    def pinned(self) -> TaskBatch:
        """The batch in page-locked memory, from which a GPU can copy while it computes."""
        return self.mapped(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> TaskBatch:
        """Returns the batch on ``device``."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TaskBatch:
        """The batch with `change` applied to every tensor, and its facts set."""
        facts = self.known
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed, facts=replace(facts, scored=change(facts.scored)))


@dataclass
class StepBatches:
    """The batches of an optimiser step, or those that one process computes.

    Attributes:
        batches: The batches of this process.
        seeds: Random seed of each batch, the same in any process; None in a step of one batch,
            which uses the generator as it is.
        examples: Number of examples of every batch of the step.
        tokens: Input tokens of all of them, without padding.
        task_rows: Task id to number of examples in all of them, in order of first occurrence.
    """

    batches: list[TaskBatch]
    seeds: list[int | None]
    examples: list[int]
    tokens: int
    task_rows: dict[int, int]
