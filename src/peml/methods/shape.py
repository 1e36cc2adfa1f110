"""What a method needs to know of a model: its linear layers, its attention, its size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from peml.errors import ModelError
from peml.injection import check_support
from peml.models import TaskModel
from peml.prefix import PrefixShape

__all__ = [
    "LinearShape",
    "ModelShape",
    "find_linears",
    "nearest_size",
    "read_linears",
    "read_shape",
    "select_linears",
]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear layer of the backbone.

    Attributes:
        name: Its path in the backbone.
        d_in: Inputs.
        d_out: Outputs.
    """

    name: str
    d_in: int
    d_out: int


@dataclass(frozen=True)
class ModelShape:
    """A model, as far as the numbers of parameters that methods add depend on it.

    Attributes:
        linears: Every linear layer but the output layer, in the model's order.
        attention: Layers, heads and channels of a prefix; None where none can be put.
        hidden_size: Channels of an input embedding.
        parameters: Parameters of the frozen backbone.
        tasks: Number of tasks.
        free_positions: Learned positions that the longest input leaves for a prompt; None where
            positions are not learned.
    """

    linears: tuple[LinearShape, ...]
    attention: PrefixShape | None
    hidden_size: int
    parameters: int
    tasks: int
    free_positions: int | None = None

    def targets(self, target_modules: str | Sequence[str]) -> tuple[LinearShape, ...]:
        """The linear layers a method works on, see `select_linears`."""
        return select_linears(self.linears, target_modules)


def select_linears(
    linears: Sequence[LinearShape], target_modules: str | Sequence[str]
) -> tuple[LinearShape, ...]:
    """The linear layers that ``target_modules`` names, as PEFT reads it.

    Args:
        linears: All of a model's.
        target_modules: ``all-linear``, a regular expression for the whole path, or names that a
            path equals or ends with.

    Raises:
        ModelError: No layer fits.
    """
    found = tuple(layer for layer in linears if _fits(layer.name, target_modules))
    if not found:
        names = sorted({layer.name.rpartition(".")[2] for layer in linears})
        raise ModelError(
            f"no linear layer of the model fits target_modules={target_modules!r}",
            allowed=", ".join(names) or "the model has no linear layers",
            action="set target_modules to names of this model's layers",
        )
    return found


def _fits(name: str, target_modules: str | Sequence[str]) -> bool:
    if target_modules == ALL_LINEAR:
        return True
    if isinstance(target_modules, str):
        try:
            return re.fullmatch(target_modules, name) is not None
        except re.error as error:
            raise ModelError(
                f"target_modules={target_modules!r} is no regular expression: {error}",
                action="correct it, or give a list of names",
            ) from error
    return any(name == target or name.endswith(f".{target}") for target in target_modules)


def find_linears(backbone: Any) -> dict[str, nn.Module]:
    """Every linear layer by its path; the output layer, which is no part of the body, is not.

    GPT-2's ``Conv1D`` is one: a linear layer with its weight transposed.
    """
    output = backbone.get_output_embeddings()
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output
    }


def read_linears(backbone: Any) -> tuple[LinearShape, ...]:
    """Shapes of `find_linears`, in the model's order."""
    linears = []
    for name, layer in find_linears(backbone).items():
        first, second = layer.get_parameter("weight").shape
        d_out, d_in = (second, first) if isinstance(layer, Conv1D) else (first, second)
        linears.append(LinearShape(name, d_in, d_out))
    return tuple(linears)


def read_shape(model: TaskModel) -> ModelShape:
    """Reads a model that nothing is attached to; the attention is probed with a tiny input."""
    backbone, family = model.backbone, model.family
    return ModelShape(
        linears=read_linears(backbone),
        attention=check_support(backbone).shape,
        hidden_size=backbone.get_input_embeddings().weight.shape[1],
        parameters=sum(p.numel() for p in backbone.parameters()),
        tasks=len(model.tasks),
        free_positions=None if family.positions is None else family.positions - family.max_length,
    )


def nearest_size(count: Callable[[int], int], budget: int, *, step: int = 1) -> int:
    """The size, a multiple of ``step``, whose count comes nearest to a budget.

    Args:
        count: Parameters at a size; grows with it.
        budget: Wanted parameters.
        step: Smallest size and distance between sizes.
    """
    high = 1
    while count(high * step) < budget:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) < budget else (low, middle)
    sizes = [size * step for size in (low, high) if size]
    return min(sizes, key=lambda size: abs(count(size) - budget))
