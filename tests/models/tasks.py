"""Batches and backbones for the tests of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from peml.models import Family
from peml.models.families import EncodedSequence
from peml.tasks import Example, Task, TaskRenderer
from peml.testing.tasks import Row, batch_of, collate, tiny_family, tiny_task_model

__all__ = [
    "Row",
    "batch_of",
    "collate",
    "encode",
    "examples",
    "gradients",
    "tiny_family",
    "tiny_task_model",
]


def examples(task: Task, rows: Sequence[Row]) -> list[Example]:
    renderer = TaskRenderer(task)
    return [renderer.render(row, number) for number, row in enumerate(rows)]


def encode(
    family: Family, task: Task, rows: Sequence[Row], purpose: Any
) -> list[list[EncodedSequence]]:
    return [family.encode(task, example, purpose) for example in examples(task, rows)]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
