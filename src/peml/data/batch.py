"""A batch of encoded examples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


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

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.rows.shape[0]

    @property
    def tasks(self) -> Tensor:
        """Index of each example's task, (examples,)."""
        first = torch.ones_like(self.groups, dtype=torch.bool)
        first[1:] = self.groups[1:] != self.groups[:-1]
        return self.task_ids[first]

    @property
    def tokens(self) -> int:
        """Number of real (unpadded) input tokens."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> TaskBatch:
        """Returns the batch on ``device``."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device, non_blocking=True)
            for name, tensor in tensors.items()
        }
        return TaskBatch(**moved)
