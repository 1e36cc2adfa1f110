"""The shape of a model, from which methods count their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peml.errors import ModelError
from peml.methods.layers import Layers
from peml.tasks import TaskRenderer

if TYPE_CHECKING:
    from peml.models import TaskModel
    from peml.prefix.shape import PrefixShape


@dataclass(frozen=True)
class ModelShape:
    """The properties of a model that determine a method's number of parameters.

    Attributes:
        layers: What ``target_modules`` can name.
        attention: Layers, heads and channels of a prefix; None: the model can't take one.
        hidden_size: Channels of an input embedding.
        parameters: Parameters of the frozen backbone.
        tasks: Number of tasks.
        free_positions: Learned positions that the longest input leaves for a prompt; None if
            positions are not learned.
        contexts: Tokens of each task's context; empty without contexts.
    """

    layers: Layers
    attention: PrefixShape | None
    hidden_size: int
    parameters: int
    tasks: int
    free_positions: int | None = None
    contexts: tuple[int, ...] = ()

    def known_contexts(self) -> tuple[int, ...]:
        """`contexts`; raises a ModelError if there are none."""
        if not self.contexts:
            raise ModelError(
                "what is trained on top of contexts has a size that depends on their tokens, which "
                "this shape doesn't know",
                allowed="the shape of a model whose tasks have contexts",
                action="read it with read_shape from a model with the method's tasks",
            )
        return self.contexts


def read_shape(model: TaskModel) -> ModelShape:
    """Reads the shape of a model without parts; probes the attention with a tiny input."""
    from peml.injection.support import check_support
    from peml.methods.targets import read_layers
    from peml.models.quantization import count_parameters

    backbone, family = model.backbone, model.family
    return ModelShape(
        layers=read_layers(backbone),
        attention=check_support(backbone).shape,
        hidden_size=backbone.get_input_embeddings().weight.shape[1],
        parameters=count_parameters(backbone),
        tasks=len(model.tasks),
        free_positions=None if family.positions is None else family.positions - family.max_length,
        contexts=tuple(
            len(family.context_tokens(TaskRenderer(task).context()))
            for task in model.tasks
            if task.context
        ),
    )


def nearest_size(count: Callable[[int], int], budget: int, *, step: int = 1) -> int:
    """The size, a multiple of ``step``, whose count is nearest to a budget.

    ``count`` gives the parameters at a size, and grows with it.
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
