"""The interface of a method, which attaches something trainable to a frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import model_validator

from peml.errors import CheckpointError
from peml.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peml.data.batch import TaskBatch
    from peml.data.solved import SolvedRows
    from peml.methods.attached import AttachedModel
    from peml.methods.context.settings import ContextSettings
    from peml.methods.shape import ModelShape
    from peml.models import TaskModel
    from peml.prefix.genotype import Genotype
    from peml.prefix.prefix import Prefix


PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter that PEFT saved."""


class MethodSettings(Settings):
    """Base of every method's config section; subclasses fix ``name`` to a literal.

    Attributes:
        nested: Name of a section in which these settings may be written as well; empty for none.
            ``lora: {r: 4}`` then means ``r: 4``, as it is written where LoRA is half of a method.
        trains: Whether the method trains anything besides an encoder's heads.
    """

    nested: ClassVar[str] = ""
    trains: ClassVar[bool] = True

    name: str

    @model_validator(mode="before")
    @classmethod
    def _unnested(cls, written: Any) -> Any:
        if not (cls.nested and isinstance(written, Mapping) and cls.nested in written):
            return written
        outer = {key: value for key, value in written.items() if key != cls.nested}
        inner = written[cls.nested]
        if not isinstance(inner, Mapping):
            raise ValueError(f"{cls.nested} is {inner!r}, not a section with settings")
        twice = [str(key) for key in inner if key in outer]
        if twice:
            raise ValueError(
                f"{', '.join(twice)}: written twice, here and under {cls.nested}; "
                f"remove {', '.join(f'{cls.nested}.{key}' for key in twice)}"
            )
        return {**outer, **inner}


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    `name` is its key under ``training.learning_rates``, `learning_rate` the method's default.
    `options` are optimiser options (weight decay, betas) that differ from the run's.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Part(ABC):
    """One trainable part of a method: the LoRA, the prefix, a routed adapter.

    A part must name its parameters and define how it is switched off; all else has a default.
    """

    name: str

    @abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """The trained parameters, grouped by learning rate."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Switches the part off inside the block."""

    def prepare(self, batch: TaskBatch | None = None) -> None:
        """Called before every forward pass.

        Args:
            batch: The batch of the pass; None: many batches of any tasks, in an evaluation.
        """
        return

    def auxiliary_loss(self) -> Tensor | None:
        """A scalar of the last forward pass, added to a training step's loss."""
        return None

    def after_step(self, step: int) -> None:
        """Called after optimiser step ``step`` (from 0), while gradients are still there."""
        return

    def state(self) -> dict[str, Tensor]:
        """Tensors that training changes besides parameters; loading writes to them in place."""
        return {}

    def save(self, folder: Path, base_model: str) -> None:
        """Saves the part in a format of other tools, if there is one."""
        return

    def start_from(self, adapter: Path) -> list[str] | None:
        """Copies the weights of an adapter that PEFT saved; called before training.

        Returns:
            Names of weights in the folder that the part doesn't have; None if PEFT has no format
            for this part.

        Raises:
            ModelError: The adapter doesn't fit; nothing was changed.
        """
        return None

    def kept(self) -> dict[str, Tensor]:
        """Tensors that can't be merged into the weights; see `Method.restore`."""
        return {}

    def merge(self) -> None:
        """Merges as much as possible into the weights, and removes the part from the model."""
        return

    def static_prefix(self) -> Prefix | None:
        """The prefix to use beside the merged weights; None if this part has none."""
        return None

    def static_contexts(self) -> dict[int, Prefix]:
        """Contexts beside the merged weights, as `Contexts.by_task`; called before `merge`."""
        return {}


class HeldOut(Protocol):
    """Rows for a search's decisions: not trained on, not part of the development metric."""

    def loss(self, draw: int) -> Tensor:
        """Loss of the ``draw``-th batch, in training mode and with its graph."""

    def measure(self, batches: int) -> float:
        """Mean loss over the first ``batches`` batches, in evaluation mode."""


@dataclass(frozen=True)
class AttachContext:
    """What a method may use while it attaches.

    Attributes:
        seed: Seed of everything initialised at random.
        calibrate: Runs the frozen model over some real rows, without gradients.
        genotype: The network that the run's search found, when the run is resumed after it.
        total_steps: Optimiser steps of the whole run, for methods with a schedule of their own.
        solved: Train rows with their answers, for methods that draw from them; None outside of
            runs.
    """

    seed: int
    calibrate: Callable[[], None]
    genotype: Genotype | None = None
    total_steps: int = 1
    solved: SolvedRows | None = None


@dataclass(frozen=True)
class Merging:
    """Whether a trained method can be merged into the weights.

    Attributes:
        how: ``once``: one plain model for all tasks (a static prefix or prompt may stand beside
            it); ``per task``: one set of weights per task, so the task's id is needed at inference;
            ``never``: the update depends on the input.
        reason: Why it isn't ``once``, for tables and messages.
    """

    how: Literal["once", "per task", "never"] = "once"
    reason: str = ""


class Method(ABC):
    """A method, which attaches trainable parts to a frozen model.

    Made from its settings when a run is prepared; `attach` is called once, before training.

    Attributes:
        settings: Its section of the config; a subclass names the type.
    """

    settings: Any
    settings_type: ClassVar[type[MethodSettings]]
    trains_backbone: ClassVar[bool] = False
    """Whether the base model's own weights train, which are then stored in float32."""

    def __init__(self, settings: MethodSettings) -> None:
        self.settings = settings

    @abstractmethod
    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds the parts and names the parameters to train; trains nothing itself.

        Raises:
            ModelError: The method can't run on this model or these tasks.
        """

    @abstractmethod
    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """Number of trainable parameters by group, without heads, after a search (closed form)."""

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings | None:
        """The settings of this method at the size nearest to a budget of parameters.

        Returns:
            None for a method without a size to choose (full, frozen).
        """
        return None

    @property
    def merging(self) -> Merging:
        """Whether and how the trained method merges."""
        return Merging()

    @property
    def needs_task_id(self) -> bool:
        """Whether the task's id must be given at inference, which every table states."""
        own_contexts = self.context is not None and self.context.scope == "task"
        return own_contexts or self.merging.how == "per task"

    @property
    def context(self) -> ContextSettings | None:
        """The settings of each task's context; None for a method without contexts."""
        return None

    @property
    def corrects_contexts(self) -> bool:
        """Whether contexts are trained beyond the keys and values of their text."""
        return False

    @property
    def prompt_length(self) -> int:
        """The number of vectors in front of the input, which take learned positions."""
        return 0

    def parameter_range(self, shape: ModelShape) -> tuple[int, int]:
        """Least and largest number of trainable parameters; they differ if a search decides."""
        total = sum(self.count_parameters(shape).values())
        return total, total

    def search_share(self) -> float:
        """The search's share of the training steps; 0 without a search."""
        return 0.0

    def held_out_share(self) -> float:
        """The share of each task's development rows that is held out for the search."""
        return 0.0

    def resting(self, phase: str) -> frozenset[str]:
        """Names of the parameter groups that don't train in a phase (search, train)."""
        return frozenset()

    def absent(self, phase: str) -> frozenset[str]:
        """Names of the parts that have no effect in a phase."""
        return frozenset()

    def restore(self, model: TaskModel, kept: Mapping[str, Tensor]) -> None:
        """Restores what `Part.kept` returned for a trained model, ``{part}.{name}`` -> tensor.

        The model is newly loaded; afterwards it is ready for inference.

        Raises:
            CheckpointError: The method has no such tensors.
        """
        name = self.settings_type.model_fields["name"].default
        raise CheckpointError(
            f"the saved model holds an adapter of the method {name!r}, which can't restore one",
            action="load it with the version of the package that wrote it",
        )
