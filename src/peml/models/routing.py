"""Tasks and real tokens of the current batch: one object per model, read by its routed layers."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

from peml.errors import TaskError
from peml.injection.packing import PackedRows

Side = Literal["inputs", "targets"]
"""Which tokens a layer processes: the inputs, or the targets of an encoder-decoder."""


class TaskRouting:
    """The task ids of the current batch, and which of its tokens are not padding.

    Held by the model and shared by reference with every layer that routes. It is set before a
    forward pass and stays until the next one, so that layers recomputed in the backward pass
    (gradient checkpointing) read the same ids.

    Attributes:
        packed: Where the tokens are, if layers get the sequences of the batch as one; else None.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.packed: PackedRows | None = None
        self._ids: Tensor | None = None
        self._masks: dict[Side, Tensor | None] = {}
        self._repeated: dict[int, Tensor] = {}

    def set(
        self,
        task_ids: Tensor,
        *,
        present: Collection[int] | None = None,
        inputs: Tensor | None = None,
        targets: Tensor | None = None,
        packed: PackedRows | None = None,
    ) -> None:
        """Sets the tasks of the next forward pass.

        Args:
            task_ids: (sequences,), each in 0..tasks-1.
            present: The ids among them, if they are known; else they are read.
            inputs: 1 for real tokens, (sequences, length); None: all are.
            targets: The same for an encoder-decoder's targets, (sequences, target_length).
            packed: Where the tokens are, if layers get the sequences as one.

        Raises:
            TaskError: An id is out of range.
        """
        ids = set(task_ids.tolist()) if present is None else present
        wrong = sorted(number for number in ids if not 0 <= number < self.tasks)
        if wrong:
            raise TaskError(
                f"the batch contains the task ids {', '.join(map(str, wrong))}",
                allowed=f"0 to {self.tasks - 1}, the tasks the model was attached for",
                action="give each row the index of its task",
            )
        self._ids, self.packed = task_ids, packed
        self._masks = {"inputs": inputs, "targets": targets}
        self._repeated.clear()

    def rows(self, count: int) -> Tensor:
        """The task id of each of ``count`` rows, (count,).

        A layer may get a multiple of the batch: beams of a sequence, or the tokens of flattened
        sequences. In both cases the rows of one sequence are consecutive. The same tensor is
        returned throughout a forward pass.
        """
        if self._ids is None:
            raise TaskError(
                "a routed layer was called without task ids",
                action="call the model with a TaskBatch, or call model.routing.set() before",
            )
        if count % len(self._ids):
            raise TaskError(
                f"a routed layer gets {count} rows in a batch of {len(self._ids)} sequences",
                allowed="a multiple of the batch's sequences",
                action="leave the layer out with target_modules",
            )
        copies = count // len(self._ids)  # not divmod, which torch.compile can't trace
        if copies == 1:
            return self._ids
        if copies not in self._repeated:
            self._repeated[copies] = self._ids.repeat_interleave(copies)
        return self._repeated[copies]

    def mask(self, side: Side, rows: int, length: int) -> Tensor | None:
        """1 for real tokens, (rows, length), or None if all are; rows may be flattened sequences.

        Raises:
            TaskError: The batch has another number of tokens on this side.
        """
        mask = self._masks.get(side)
        if mask is None:
            return None
        if mask.numel() != rows * length:
            raise TaskError(
                f"a routed layer gets {rows} x {length} tokens, but the batch's {side} are "
                f"{' x '.join(map(str, mask.shape))}",
                allowed="as many tokens as the batch has",
                action="leave the layer out with target_modules",
            )
        return mask.reshape(rows, length)

    def one_task(self, task_id: int, device: torch.device) -> None:
        """Sets one task for batches of any size."""
        self.set(torch.full((1,), task_id, device=device), present=[task_id])
