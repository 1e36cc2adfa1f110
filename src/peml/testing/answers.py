"""Answers of tiny models, which conformance suites compare."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.methods.attached import AttachedModel
from peml.methods.routed.delta import AdaptedLinear
from peml.models.families.decoding import start_of_answers
from peml.models.prompt import build_inputs
from peml.testing.tasks import TINY_ROWS, Row, batch_of

_HEADS = "base.heads."


@torch.no_grad()
def scores_of(model: Any, batch: TaskBatch) -> Tensor:
    """The scores of a batch, without gradients."""
    scores: Tensor = model(batch).scores
    return scores


def scores_of_rows(model: Any, rows: Sequence[tuple[int, Row]] = TINY_ROWS) -> Tensor:
    """The scores of raw rows, by an attached or a plain model."""
    base = model.base if isinstance(model, AttachedModel) else model
    return scores_of(model, batch_of(base, rows))


def rows_of(task: int) -> list[tuple[int, Row]]:
    """The rows of `TINY_ROWS` that belong to one task."""
    return [(number, row) for number, row in TINY_ROWS if number == task]


def merged_for(layer: AdaptedLinear, task: int) -> torch.nn.Module:
    """The plain layer with one task's update in its weight."""
    base = copy.deepcopy(layer.base)
    with torch.no_grad():
        up, down = layer.delta.factors(task)
        update = up @ down
        weight = base.get_parameter("weight")
        weight.add_(update.T if layer.transposed else update)
    return base


def decode_slowly(model: AttachedModel, row: tuple[int, Row], *, tokens: int = 4) -> str:
    """Greedy decoding of one row with a full forward pass per token: no cache, no padding."""
    base = model.base
    batch = batch_of(base, [row], "generate")
    base.routing.set(batch.task_ids, inputs=batch.attention_mask)
    backbone = base.backbone
    separate = backbone.config.is_encoder_decoder
    ids = batch.input_ids
    said = ids.new_full((1, 1), start_of_answers(backbone.config) or 0) if separate else ids
    start = said.shape[1]
    for _ in range(tokens):
        read = ids if separate else said
        seen = dataclasses.replace(batch, input_ids=read, attention_mask=torch.ones_like(read))
        inputs = build_inputs(backbone, seen, base.prompt.vectors)
        if separate:
            inputs["decoder_input_ids"] = said
        logits = backbone(**inputs, use_cache=False).logits
        said = torch.cat([said, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        if said[0, -1] in base.family.spelling.ends:
            break
    return base.family.spelling.read(said[0, start:].tolist()).strip()


def own_parameters(model: AttachedModel) -> list[tuple[str, torch.nn.Parameter]]:
    """Trainable parameters without those of the heads."""
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.numel() and not name.startswith(_HEADS)
    ]


def pass_of(model: AttachedModel, batch: TaskBatch) -> dict[str, Any]:
    """Losses and gradients of a training pass with the same noise each time."""
    torch.manual_seed(3)
    output = model(batch)
    output.loss.backward()
    return {n: p.grad for n, p in own_parameters(model)} | {"losses": output.losses.detach()}


def reached(model: AttachedModel) -> set[str]:
    """Names of the method's parameters whose gradient is not all zero."""
    return {n for n, p in own_parameters(model) if p.grad is not None and bool(p.grad.any())}


def frozen_of(model: AttachedModel) -> dict[str, Tensor]:
    """Every tensor that training must not change."""
    declared = {
        value.data_ptr() for part in model.parts.values() for value in part.state().values()
    }
    tensors = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    return {
        name: tensor.detach()
        for name, tensor in [*tensors, *model.named_buffers()]
        if tensor.data_ptr() not in declared
    }
