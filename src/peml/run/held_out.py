"""The rows a search chooses by, as losses of the model at hand."""

from __future__ import annotations

from accelerate import Accelerator
from torch import Tensor

from peml.data import BatchStream, MixingSettings, TaskBatch
from peml.methods import AttachedModel
from peml.run.preparation import Prepared


class HeldOutRows:
    """Batches of held-out development rows, a pure function of the draw.

    They are batched like the training rows; all come once before one comes again.

    Args:
        prepared: A run whose method holds rows out.
        model: Whose loss it is.
        accelerator: Device and precision.
    """

    def __init__(self, prepared: Prepared, model: AttachedModel, accelerator: Accelerator) -> None:
        batches = prepared.config.batches.model_copy(update={"mixing": MixingSettings()})
        collate = prepared.stream.collate
        self._stream = BatchStream(prepared.held_out, batches, collate, seed=prepared.config.seed)
        self._length = len(self._stream.plan(0))
        self._model = model
        self._accelerator = accelerator

    def loss(self, draw: int) -> Tensor:
        """Loss of the ``draw``-th batch, in training mode and with its graph."""
        self._model.train()
        with self._accelerator.autocast():
            loss: Tensor = self._model(self._batch(draw)).loss
        return loss

    def measure(self, batches: int) -> float:
        """Mean loss over the first batches, in evaluation mode."""
        self._model.eval()
        count = min(batches, self._length)
        with self._model.prepared(), self._accelerator.autocast():
            losses = [float(self._model(self._batch(draw)).loss.detach()) for draw in range(count)]
        return sum(losses) / count

    def _batch(self, draw: int) -> TaskBatch:
        epoch, place = divmod(draw, self._length)
        plan = self._stream.plan(epoch)  # epochs may differ by a batch
        return self._stream.fetch(*plan[place % len(plan)]).to(self._accelerator.device)
