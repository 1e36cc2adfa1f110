"""A frozen model with the trainable parts of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import CheckpointError, ModelError
from peml.methods.base import Method, ParameterGroup, Part
from peml.methods.shape import ModelShape
from peml.models import ModelOutput, TaskModel
from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import Prefix

if TYPE_CHECKING:
    from peml.methods.prefix.search import PrefixSearch


class AttachedModel(nn.Module):
    """A frozen model with the trainable parts of a method.

    Args:
        base: Backbone and heads.
        parts: Parts by name; the names are also those of the ablations.
        groups: Trained parameters that belong to no part, so that they can't be switched off.
        search: The search, until it has ended.

    Attributes:
        added: The parts that are modules outside the backbone.
    """

    def __init__(
        self,
        base: TaskModel,
        parts: Mapping[str, Part],
        *,
        groups: Sequence[ParameterGroup] = (),
        search: PrefixSearch | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.parts = dict(parts)
        self._groups = tuple(groups)
        modules = {n: part for n, part in self.parts.items() if isinstance(part, nn.Module)}
        self.added = nn.ModuleDict(modules)
        self.search = search
        self._fixed = False

    def forward(self, batch: TaskBatch) -> ModelOutput:
        """Losses and scores of a batch that may mix tasks."""
        self.prepare(batch)
        output: ModelOutput = self.base(batch)
        if not self.training:
            return output
        added = [part.auxiliary_loss() for part in self.parts.values()]
        losses = [value for value in added if value is not None]
        if not losses:
            return output
        auxiliary = sum(losses[1:], start=losses[0])
        return dataclasses.replace(output, loss=output.loss + auxiliary, auxiliary=auxiliary)

    def prepare(self, batch: TaskBatch | None = None) -> None:
        """Prepares every part for a forward pass over a batch; None: for any batches."""
        if not self._fixed:
            for part in self.parts.values():
                part.prepare(batch)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Prepares once for many forward passes with unchanged weights (evaluation)."""
        self.prepare()
        self._fixed = True
        try:
            yield
        finally:
            self._fixed = False

    def after_step(self, step: int) -> None:
        """Calls `after_step` of every part; the step's gradients still exist."""
        for part in self.parts.values():
            part.after_step(step)

    def groups(self) -> list[ParameterGroup]:
        """All trained parameters: the parts' groups, other groups, then the heads."""
        groups = [group for part in self.parts.values() for group in part.groups()]
        groups += self._groups
        if self.base.heads is not None:
            heads = list(self.base.heads.parameters())
            groups.append(ParameterGroup("heads", heads, 1e-3))
        return groups

    def trainable_parameters(self) -> dict[str, int]:
        """Numbers of trainable parameters by group."""
        return {group.name: sum(p.numel() for p in group.parameters) for group in self.groups()}

    def genotype(self) -> Genotype | None:
        """The genotype of the prefix network; None during a search, and without a network."""
        networks = (m for m in self.added.modules() if isinstance(m, PrefixNetwork))
        return next((network.genotype for network in networks), None)

    def ablations(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """``{part}_off`` -> context manager that switches the part off."""
        return {f"{name}_off": part.disabled for name, part in self.parts.items()}

    def trainable_state(self) -> dict[str, Tensor]:
        """All tensors that training changes, and the buffers of the added modules."""
        extra = {
            f"extra.{part.name}.{name}": value
            for part in self.parts.values()
            for name, value in part.state().items()
        }
        # A group that rests in this phase has no gradient, but trains in another.
        trained = {id(parameter) for group in self.groups() for parameter in group.parameters}
        state = {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if id(parameter) in trained
        }
        state.update({f"added.{name}": value for name, value in self.added.state_dict().items()})
        return state | extra

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of `trainable_state`.

        Raises:
            CheckpointError: Names or shapes don't fit this model.
        """
        action = "use the config and the package version the run was started with"
        copy_tensors(state, self.trainable_state(), action)

    def save_parts(self, folder: Path) -> None:
        """Saves the parts for which other tools have a format (LoRA: as PEFT saves it)."""
        for part in self.parts.values():
            part.save(folder, self.base.settings.name)

    def kept(self) -> dict[str, Tensor]:
        """Tensors that can't be merged, besides a prefix; call before `merge`."""
        return {
            f"{part.name}.{name}": value
            for part in self.parts.values()
            for name, value in part.kept().items()
        }

    def static_contexts(self) -> dict[int, Prefix]:
        """The contexts beside the merged weights, by task id; call before `merge`."""
        held: dict[int, Prefix] = {}
        for part in self.parts.values():
            held.update(part.static_contexts())
        return held

    def merge(self) -> Prefix | None:
        """Merges every part into the weights, and returns the prefix, which can't be merged."""
        prefixes = [part.static_prefix() for part in self.parts.values()]
        for part in self.parts.values():
            part.merge()
        return next((prefix for prefix in prefixes if prefix is not None), None)


@torch.no_grad()
def copy_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], action: str) -> None:
    """Copies saved tensors into those of the same names.

    Raises:
        CheckpointError: Names or shapes differ; ``action`` says what to do.
    """
    unfit = sorted(own.keys() ^ saved.keys()) or sorted(
        name for name in own if own[name].shape != saved[name].shape
    )
    if unfit:
        raise CheckpointError(
            f"the saved weights do not fit this model: {', '.join(unfit[:3])}"
            f"{', ...' if len(unfit) > 3 else ''}",
            action=action,
        )
    for name, value in own.items():
        value.copy_(saved[name])


def check_count(method: Method, shape: ModelShape, model: AttachedModel) -> None:
    """Raises a ModelError if a model trains other parameters than its method announces.

    Tables and budgets are made from the closed form before anything is attached. During a search
    the supernet trains as well, so there is nothing to compare until it has ended.
    """
    if model.search is not None:
        return
    counts = model.trainable_parameters()
    counts.pop("heads", None)
    low, high = method.parameter_range(shape)
    total = sum(counts.values())
    if not low <= total <= high:
        announced = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ModelError(
            f"the method trains {total:,} parameters ({listed}) and announces {announced}; "
            "comparisons at equal size would be wrong",
            allowed="the same number",
            action="name the layers in target_modules that the method shall adapt; if it is a "
            "method of your own, correct its count_parameters",
        )
