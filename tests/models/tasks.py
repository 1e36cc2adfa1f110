"""Batches and backbones for the tests of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peml.data import Collator, TaskBatch
from peml.models import Backbone, EncodedSequence, Family, ModelSettings, TaskModel
from peml.models.families import FAMILIES
from peml.tasks import Example, Task, TaskRenderer
from peml.testing.models import TINY_FAMILIES, tiny_model, tiny_tokenizer

Row = dict[str, Any]


def tiny_family(name: str, *, max_length: int = 64, pooling: str = "mean") -> Family:
    kind = TINY_FAMILIES[name].kind
    return FAMILIES[kind](tiny_tokenizer(kind), max_length=max_length, pooling=pooling)


def tiny_task_model(
    name: str, tasks: Sequence[Task], *, pooling: str = "mean", seed: int = 0, **config: Any
) -> TaskModel:
    family = tiny_family(name, pooling=pooling)
    model = tiny_model(name, seed=seed, **config).requires_grad_(False)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # as `load_backbone` does
    backbone = Backbone(model, family, ModelSettings(name=name))
    return TaskModel(backbone, tasks, seed=seed)


def examples(task: Task, rows: Sequence[Row]) -> list[Example]:
    renderer = TaskRenderer(task)
    return [renderer.render(row, number) for number, row in enumerate(rows)]


def encode(
    family: Family, task: Task, rows: Sequence[Row], purpose: Any
) -> list[list[EncodedSequence]]:
    return [family.encode(task, example, purpose) for example in examples(task, rows)]


def collate(
    family: Family, encoded: Sequence[tuple[int, list[EncodedSequence]]], *, left: bool = False
) -> TaskBatch:
    """A batch of (task id, sequences of one example), in that order."""
    columns: dict[str, list[Any]] = {
        "input_ids": [[s.input_ids for s in sequences] for _, sequences in encoded],
        "token_type_ids": [
            [s.token_type_ids for s in sequences if s.token_type_ids] for _, sequences in encoded
        ],
        "labels": [[s.labels for s in sequences if s.labels] for _, sequences in encoded],
        "targets": [[s.target for s in sequences] for _, sequences in encoded],
    }
    collator = Collator(family.tokenizer.pad_token_id, left=left)
    return collator(columns, [task for task, _ in encoded], np.arange(len(encoded)))


def batch_of(
    model: TaskModel, rows: Sequence[tuple[int, Row]], purpose: Any = "train", *, left: bool = False
) -> TaskBatch:
    """A batch of (task id, raw row) that may mix tasks."""
    encoded = [
        (task, encode(model.family, model.tasks[task], [row], purpose)[0]) for task, row in rows
    ]
    return collate(model.family, encoded, left=left)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
