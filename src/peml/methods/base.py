"""What a method is: how something trainable is attached to a frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import CheckpointError
from peml.models import ModelOutput, TaskModel
from peml.prefix import Genotype, Prefix, PrefixNetwork
from peml.settings import Settings

__all__ = [
    "AttachContext",
    "AttachedModel",
    "Method",
    "MethodSettings",
    "ParameterGroup",
    "Part",
    "Search",
]


class MethodSettings(Settings):
    """Base of every method's config section; subclasses fix ``name`` to a literal."""

    name: str


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: Key under ``training.learning_rates``.
        parameters: What trains.
        learning_rate: The method's default for this group.
        options: Further optimiser options (weight decay, betas) that differ from the run's.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Part(Protocol):
    """One trainable thing on a backbone (the LoRA, the prefix)."""

    name: str

    def prepare(self) -> None:
        """Called before every forward pass."""

    def groups(self) -> list[ParameterGroup]:
        """What trains, by learning rate."""

    def disabled(self) -> AbstractContextManager[None]:
        """Takes the part's effect away for a while."""

    def save(self, folder: Path, base_model: str) -> None:
        """Writes the part in the format other tools read, where there is one."""

    def merge(self) -> None:
        """Folds the part into the model's weights for good, where it can be."""

    def static_prefix(self) -> Prefix | None:
        """The prefix that stays beside the merged weights, if this part makes one."""


class Search(Protocol):
    """The decisions of a method that searches; driven once per step by the run.

    It holds no state of its own beyond the model's weights: what it does in a step depends on
    them, the seed and the step, so a resumed search goes on exactly as it would have.
    """

    def begin(self, total_steps: int) -> None:
        """Called once, with the length of the search."""

    def before_step(self, step: int) -> None:
        """Sets the decisions' weights for one training step."""

    def before_evaluation(self, step: int) -> None:
        """Sets the decisions' weights to their expectation, without noise."""

    def snapshot(self, step: int) -> dict[str, Any]:
        """``temperature``, and ``weights``: decision -> option -> weight."""

    def discretise(self, step: int) -> tuple[Genotype, list[str]]:
        """Replaces the supernet by the network of the best choices.

        Returns:
            The genotype, and the decisions the guard against collapse has changed.
        """


@dataclass(frozen=True)
class AttachContext:
    """What a method may use while it attaches.

    Attributes:
        seed: Seed of everything initialised at random.
        calibrate: Runs the frozen model over some real rows, without gradients.
        genotype: A network found before, when a run goes on after its search.
    """

    seed: int
    calibrate: Callable[[], None]
    genotype: Genotype | None = None


class AttachedModel(nn.Module):
    """A frozen model with the trainable parts of a method.

    Args:
        base: Backbone and heads.
        parts: By name; also the names of the ablations.
        modules: Modules of parts that live outside the backbone.
        search: The decisions, while there are any.
    """

    def __init__(
        self,
        base: TaskModel,
        parts: Mapping[str, Part],
        *,
        modules: Mapping[str, nn.Module] | None = None,
        search: Search | None = None,
        heads_learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        self.base = base
        self.parts = dict(parts)
        self.added = nn.ModuleDict(dict(modules or {}))
        self.search = search
        self._heads_learning_rate = heads_learning_rate
        self._fixed = False

    def forward(self, batch: TaskBatch) -> ModelOutput:
        """Losses and scores of a batch that may mix tasks."""
        self.prepare()
        output: ModelOutput = self.base(batch)
        return output

    def prepare(self) -> None:
        """Lets every part get ready for a forward pass."""
        if not self._fixed:
            for part in self.parts.values():
                part.prepare()

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Prepares once for many forward passes with unchanged weights (evaluation)."""
        self.prepare()
        self._fixed = True
        try:
            yield
        finally:
            self._fixed = False

    def groups(self) -> list[ParameterGroup]:
        """All that trains: the parts' groups, then the heads."""
        groups = [group for part in self.parts.values() for group in part.groups()]
        if self.base.heads is not None:
            heads = list(self.base.heads.parameters())
            groups.append(ParameterGroup("heads", heads, self._heads_learning_rate))
        return groups

    def genotype(self) -> Genotype | None:
        """What the prefix network is made of; None during a search, and without a prefix."""
        networks = (m for m in self.added.modules() if isinstance(m, PrefixNetwork))
        return next((network.genotype for network in networks), None)

    def ablations(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """``{part}_off`` -> context manager that takes the part's effect away."""
        return {f"{name}_off": part.disabled for name, part in self.parts.items()}

    def trainable_state(self) -> dict[str, Tensor]:
        """Everything that training changes, and the fixed numbers of the added modules."""
        state = {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }
        state.update({f"added.{name}": value for name, value in self.added.state_dict().items()})
        return state

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of `trainable_state`.

        Raises:
            CheckpointError: Names or shapes don't fit this model.
        """
        own = self.trainable_state()
        unfit = sorted(set(own) ^ set(state)) or sorted(
            name for name in own if own[name].shape != state[name].shape
        )
        if unfit:
            raise CheckpointError(
                f"the saved weights do not fit this model: {', '.join(unfit[:3])}"
                f"{', ...' if len(unfit) > 3 else ''}",
                action="use the config and the package version the run was started with",
            )
        for name, value in own.items():
            value.copy_(state[name])

    def save_parts(self, folder: Path) -> None:
        """Writes what other tools can read of the parts (LoRA: as PEFT saves it)."""
        for part in self.parts.values():
            part.save(folder, self.base.settings.name)

    def merge(self) -> Prefix | None:
        """Folds every part into the weights, and returns the prefix that stays beside them."""
        prefixes = [part.static_prefix() for part in self.parts.values()]
        for part in self.parts.values():
            part.merge()
        return next((prefix for prefix in prefixes if prefix is not None), None)


class Method(ABC):
    """How something trainable is attached to a frozen model.

    Made from its settings when a run is prepared; `attach` is called once, before training.
    """

    settings_type: ClassVar[type[MethodSettings]]
    needs_task_id: ClassVar[bool] = False

    @abstractmethod
    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Freezes nothing, trains nothing: adds the parts and says what trains."""

    def search_share(self) -> float:
        """Share of the training steps spent searching; 0 where nothing is searched."""
        return 0.0
