"""The training loss on rows that are not used for training."""

import math
from collections.abc import Sequence

import torch

from peml.data.batching import Collator, evaluation_batches
from peml.data.encoding import EncodedSplit
from peml.errors import TrainingError
from peml.evaluation.evaluate import Evaluable


@torch.no_grad()
def mean_losses(
    model: Evaluable, splits: Sequence[EncodedSplit], tokens: int
) -> list[float | None]:
    """Mean loss per example of each task, without dropout; None for a task without rows.

    The splits are encoded as for training, in the order of the task ids; `tokens` is the limit of a
    batch, padding included.

    Raises:
        TrainingError: A loss isn't finite.
    """
    base = model.base
    collate = Collator(base.family.tokenizer.pad_token_id)
    means: list[float | None] = []
    model.eval()
    with model.prepared():
        for task_id, split in enumerate(splits):
            mine = (
                evaluation_batches(split, task_id, tokens, collate, base.world.part)
                if len(split)
                else ()
            )
            with base.divided():
                sums = [float(model(batch.to(base.device)).losses.double().sum()) for batch in mine]
            total = sum(base.world.interleave(sums))
            if not math.isfinite(total):
                raise TrainingError(
                    f"the development loss of {base.tasks[task_id].name!r} is {total}",
                    allowed="finite losses: adaptive task shares are computed from them",
                    action="lower training.learning_rates; if this happens before any training, "
                    f"{base.not_finite_advice}",
                )
            means.append(total / len(split) if len(split) else None)
    return means
