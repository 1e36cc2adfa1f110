"""Checks that a model read from disk gives the same scores as the trained one."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from types import MappingProxyType

import torch
from torch import Tensor, nn

from peml.data import TaskBatch
from peml.errors import RunError
from peml.methods.attached import AttachedModel
from peml.methods.routed.delta import Delta
from peml.methods.targets import read_layers
from peml.models import TaskModel
from peml.records.run import Agreement

# Merging rounds the summed weights to the type they are stored in. With random updates of all sizes
# on MiniLM and SmolLM2-135M, scores changed by 1e-6 in float32, 0.003 in float16 and 0.02 in
# bfloat16.
TOLERANCES = MappingProxyType({"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1})
# In a mixture of experts, rounding can send a token to another expert.
_MIXTURE = 0.1


@torch.no_grad()
def answers(model: AttachedModel | TaskModel, batches: Iterable[TaskBatch]) -> list[Tensor]:
    """A model's scores of the sequences of each batch, without dropout."""
    base = model.base if isinstance(model, AttachedModel) else model
    model.eval()
    all_scores = []
    with model.prepared() if isinstance(model, AttachedModel) else nullcontext():
        for batch in batches:
            scores = model(batch.to(base.device)).scores.double().cpu()
            if batch.labels is not None:  # a log-likelihood, which grows with the text's length
                scores = scores / (batch.labels >= 0).sum(1).clamp(min=1)
            all_scores.append(scores)
    return all_scores


def largest_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference of two models' `answers`, as a share of 1 + the first one's score."""
    pairs = zip(before, after, strict=True)
    return max((float(_differences(*pair).max()) for pair in pairs), default=0.0)


def _differences(before: Tensor, after: Tensor) -> Tensor:
    return (after - before).abs() / (1 + before.abs())


def check_agreement(
    trained: Sequence[Tensor],
    saved: Sequence[Tensor],
    batches: Sequence[TaskBatch],
    model: TaskModel,
) -> Agreement:
    """Refuses a saved model whose `answers` differ by more than rounding from the trained one's."""
    tolerance = TOLERANCES[model.settings.dtype]
    if _chooses_experts(model.backbone):
        tolerance = max(tolerance, _MIXTURE)
    largest = 0.0
    for before, after, batch in zip(trained, saved, batches, strict=True):
        difference = _differences(before, after)
        worst = float(difference.max())
        if not worst <= tolerance:  # also true for NaN
            place = int(difference.nan_to_num(torch.inf).argmax())
            scores = float(before.flatten()[place]), float(after.flatten()[place])
            raise _refusal(model, batch, scores, tolerance)
        largest = max(largest, worst)
    rows = sum(batch.examples for batch in batches)
    return Agreement(rows=rows, largest_difference=largest, tolerance=tolerance)


def _chooses_experts(backbone: nn.Module) -> bool:
    """Whether the base model is a mixture of experts; layers added by a method don't count."""
    added = {id(p) for m in backbone.modules() if isinstance(m, Delta) for p in m.parameters()}
    fused = (backbone.get_parameter(path) for path in read_layers(backbone).fused)
    return any(id(parameter) not in added for parameter in fused)


def _refusal(
    model: TaskModel, batch: TaskBatch, scores: tuple[float, float], tolerance: float
) -> RunError:
    """The error for a pair of scores: the trained model's and the saved one's."""
    stored, task = model.settings.dtype, model.tasks[int(batch.task_ids[0])].name
    rounding = "" if stored == "float32" else "with model.dtype: float32, "
    return RunError(
        f"the saved model gives other scores than the trained one: a score of a row of {task!r} "
        f"was {scores[0]:.4g} and is {scores[1]:.4g}",
        allowed=f"differences up to {tolerance:g} x (1 + the score), as from rounding to {stored}",
        action=f"train in a new run folder {rounding}with other target_modules, or with "
        "export: false if you only need the results; no model was written, but this run's "
        "checkpoints and predictions are kept",
    )
