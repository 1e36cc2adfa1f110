"""Losses of the current model on the rows that a search chooses by."""

import torch
from accelerate import Accelerator
from torch import Tensor

from peml.data import TaskBatch
from peml.data.batching import BatchStream
from peml.data.mixing import MixingSettings, draw_seed
from peml.methods.attached import AttachedModel
from peml.run.preparation import Prepared


class HeldOutRows:
    """Batches of held-out development rows, determined by the draw's number.

    They are batched like training rows; every batch is used once before one is repeated.
    """

    def __init__(self, prepared: Prepared, model: AttachedModel, accelerator: Accelerator) -> None:
        batches = prepared.config.batches.model_copy(update={"mixing": MixingSettings()})
        collate = prepared.stream.collate
        self._stream = BatchStream(prepared.held_out, batches, collate, seed=prepared.config.seed)
        self._length = len(self._stream.plan(0))
        self._several = prepared.config.training.accumulation > 1
        self._seed = prepared.config.seed
        self._world = model.base.world
        self._model = model
        self._accelerator = accelerator

    def loss(self, draw: int) -> Tensor:
        """Loss of the ``draw``-th batch, in training mode and with its graph.

        Several processes all compute it, and sum its gradients with those of their own batches; so
        only the first process counts it.
        """
        self._model.train()
        if self._several:
            torch.manual_seed(draw_seed(1, self._seed, draw))
        with self._accelerator.autocast():
            loss: Tensor = self._model(self._batch(draw)).loss
        return loss if self._world.is_first else loss * 0

    def measure(self, batches: int) -> float:
        """Mean loss over the first batches, in evaluation mode."""
        self._model.eval()
        count = min(batches, self._length)
        divided = self._model.base.divided()
        with self._model.prepared(), divided, self._accelerator.autocast():
            mine = range(count)[self._world.part]
            losses = [float(self._model(self._batch(draw)).loss.detach()) for draw in mine]
        return sum(self._world.interleave(losses)) / count

    def _batch(self, draw: int) -> TaskBatch:
        epoch, place = divmod(draw, self._length)
        plan = self._stream.plan(epoch)  # epochs may differ by a batch
        return self._stream.fetch(plan[place % len(plan)]).to(self._accelerator.device)
