"""Common code of the methods with their own low-rank layer: attach, merge, save, restore."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peml.methods.attached import AttachedModel, copy_tensors
from peml.methods.base import AttachContext, Method, MethodSettings, ParameterGroup, Part
from peml.methods.layers import LinearShape
from peml.methods.lora.peft_format import Factors, write_peft_lora
from peml.methods.routed.delta import AdaptedLinear, Delta
from peml.methods.routed.settings import AdapterSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.methods.targets import find_linears, read_layers, with_sides
from peml.models import TaskModel, TaskRouting


class AdapterPart(Part):
    """Low-rank layers that replace a model's linear layers.

    `deltas` has the update of each layer by its path in the backbone; `merges` says whether they
    can be merged into the weights.
    """

    name = "adapter"

    def __init__(
        self,
        model: TaskModel,
        deltas: Mapping[str, Delta],
        settings: AdapterSettings,
        *,
        merges: bool,
    ) -> None:
        self._backbone = model.backbone
        self._settings, self._merges = settings, merges
        linears = find_linears(model.backbone)
        output = model.backbone.get_output_embeddings()
        if output is not None and any(linears[name] is output for name in deltas):
            model.family.logits_everywhere = True  # its update needs whole rows, of one task each
        self.layers: dict[str, AdaptedLinear] = {}
        for name, delta in deltas.items():
            base = linears[name]
            layer = AdaptedLinear(base, delta, transposed=isinstance(base, Conv1D))
            self.layers[name] = layer
            model.backbone.set_submodule(name, layer)

    def groups(self) -> list[ParameterGroup]:
        owned: dict[str, dict[int, nn.Parameter]] = {"adapter": {}}
        for layer in self.layers.values():
            for name, parameter in layer.delta.named_parameters():
                group = layer.delta.fast.get(name, "adapter")
                # by identity, since layers may share a gate
                owned.setdefault(group, {})[id(parameter)] = parameter
        slow = list(owned.pop("adapter").values())
        # Decay would pull weights that start at 0 or 1 back to 0.
        still = {"weight_decay": 0.0}
        return [
            ParameterGroup("adapter", slow, self._settings.learning_rate),
            *(
                ParameterGroup(
                    name,
                    list(parameters.values()),
                    getattr(self._settings, f"{name}_learning_rate"),
                    still,
                )
                for name, parameters in owned.items()
            ),
        ]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True

    def auxiliary_loss(self) -> Tensor | None:
        losses = [layer.delta.auxiliary_loss() for layer in self.layers.values()]
        present = [loss for loss in losses if loss is not None]
        return torch.stack(present).mean() if present else None

    def factors(self, task_id: int) -> Factors:
        """Each layer's update for one task as a LoRA, by path."""
        with torch.no_grad():
            return {name: layer.delta.factors(task_id) for name, layer in self.layers.items()}

    def save(self, folder: Path, base_model: str) -> None:
        """Writes ``lora/`` in PEFT's format if one LoRA equals the update for all tasks."""
        if self._merges:
            write_peft_lora(folder / "lora", self.factors(0), self._backbone, base_model)

    def kept(self) -> dict[str, Tensor]:
        return {} if self._merges else self._state()

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.delta.state_dict().items()
        }

    def load_kept(self, kept: Mapping[str, Tensor]) -> None:
        """The reverse of `kept`; names begin with the part's name.

        Raises:
            CheckpointError: The tensors are not those of these layers.
        """
        own = {f"{self.name}.{name}": value for name, value in self._state().items()}
        copy_tensors(kept, own, "restore the file, or export the model again from its run")

    def merge(self) -> None:
        """Merges the updates, or puts the plain layers back if that is impossible."""
        for name, layer in self.layers.items():
            self._backbone.set_submodule(name, layer.merged() if self._merges else layer.base)


class AdapterMethod(Method):
    """A method that replaces linear layers; a subclass defines the layer and the parameter count.

    Attributes:
        delta_type: The update of one layer.
    """

    delta_type: ClassVar[type[Delta]]

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        """A fresh delta per layer, by path; overridden if layers share something."""
        return {layer.name: self.delta_type(layer, routing, self.settings) for layer in layers}

    @abstractmethod
    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        """The number of trainable parameters by group at rank ``r``, in closed form."""

    @property
    def rank_step(self) -> int:
        """The rank is a multiple of this."""
        return 1

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            part = self._place(model)
        return AttachedModel(model, {part.name: part})

    def restore(self, model: TaskModel, kept: Mapping[str, Tensor]) -> None:
        part = self._place(model)
        part.load_kept(kept)
        model.requires_grad_(False)

    def _place(self, model: TaskModel) -> AdapterPart:
        layers = self.settings.targets(read_layers(model.backbone))
        layers = with_sides(model.backbone, layers)
        deltas = self.build_deltas(layers, model.routing)
        return AdapterPart(model, deltas, self.settings, merges=self.merging.how == "once")

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        layers = self.settings.targets(shape.layers)
        return self.count_at(self.settings.r, layers, shape.tasks)

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank; alpha / r stays."""
        layers = self.settings.targets(shape.layers)

        def count(r: int) -> int:
            return sum(self.count_at(r, layers, shape.tasks).values())

        r = nearest_size(count, budget, step=self.rank_step)
        settings: MethodSettings = self.settings
        return settings.model_copy(update={"r": r, "alpha": self.settings.scale * r})
