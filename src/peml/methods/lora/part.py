"""Any PEFT tuner on a model's linear layers, as a part and a method."""

from abc import abstractmethod
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from peml.errors import ModelError
from peml.files import write_tensors
from peml.methods.attached import AttachedModel
from peml.methods.base import (
    PEFT_WEIGHTS,
    AttachContext,
    Method,
    MethodSettings,
    ParameterGroup,
    Part,
)
from peml.methods.lora.adapter import copy_weights, read_adapter
from peml.methods.lora.settings import LowRankSettings
from peml.methods.shape import ModelShape
from peml.methods.targets import read_layers
from peml.models import TaskModel

ADAPTER = "default"
"""PEFT's name of the only adapter."""


def _exactly_on(paths: Set[str], tuner: type[BaseTuner]) -> type[BaseTuner]:
    """A subclass of the tuner that adapts exactly these layers.

    For mixtures of experts, PEFT rewrites ``target_modules``: it adds the experts, and removes
    dense layers with the same name.
    """

    class ExactTuner(tuner):
        def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
            peft_config.target_modules = set(paths)
            if hasattr(peft_config, "target_parameters"):
                peft_config.target_parameters = None
            return peft_config

    return ExactTuner


class PeftPart(Part):
    """The layers of a PEFT tuner inside a model.

    Only the tuner is used, not a `PeftModel`, so that the model keeps its class and signature.

    PEFT's class `tuner` adds the layers. The target modules of `config` are replaced by those of
    `settings`, which also have the learning rate and the name of the group.

    Raises:
        ModelError: PEFT can't adapt a layer, or adapts other layers than requested.
    """

    def __init__(
        self,
        model: Any,
        tuner: type[BaseTuner],
        config: PeftConfig,
        settings: LowRankSettings,
        seed: int,
    ) -> None:
        self.name, self.settings = settings.group, settings
        targets = {layer.name for layer in settings.targets(read_layers(model))}
        action = f"leave these layers out of {settings.target_setting}, or change the settings"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._tuner: Any = _exactly_on(targets, tuner)(model, config, ADAPTER)
            except (TypeError, ValueError) as error:  # a kind of layer, a size
                raise ModelError(
                    f"{self.name} can't be attached: {error}", action=action
                ) from error
        self._layers = {
            path: module
            for path, module in self._tuner.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }
        if self._layers.keys() != targets:
            odd = ", ".join(sorted(self._layers.keys() ^ targets))
            raise ModelError(
                f"{self.name} was attached to other layers than asked for: {odd}", action=action
            )
        self._parameters: dict[str, nn.Parameter] = {
            name: parameter
            for name, parameter in model.named_parameters()
            if f".{tuner.prefix}" in name and ADAPTER in name
        }
        for parameter in self._parameters.values():
            # The adapter trains in float32, whatever the type of the frozen weights.
            parameter.data = parameter.data.float()

    def groups(self) -> list[ParameterGroup]:
        parameters = list(self._parameters.values())
        return [ParameterGroup(self.name, parameters, self.settings.learning_rate)]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)

    def save(self, folder: Path, base_model: str) -> None:
        """Writes a folder of the part's name, which ``PeftModel.from_pretrained`` loads."""
        target = folder / self.name
        config, state = self.peft_format()
        config.base_model_name_or_path = base_model
        config.save_pretrained(target)
        # A PeftModel would hold the tuner under the name base_model.
        named = {f"base_model.{name}": value for name, value in state.items()}
        write_tensors(target / PEFT_WEIGHTS, named)

    @torch.no_grad()
    def start_from(self, adapter: Path) -> list[str]:
        config, own = self.peft_format()
        saved = read_adapter(adapter, config)
        return copy_weights(saved, own, self._tuner.model, self._tuner.prefix)

    def peft_format(self) -> tuple[PeftConfig, dict[str, Tensor]]:
        """Config and tensors as PEFT saves them."""
        # By default, PEFT asks the hub whether the base model's vocabulary has grown.
        state = get_peft_model_state_dict(
            self._tuner, adapter_name=ADAPTER, save_embedding_layers=False
        )
        config: PeftConfig = self._tuner.peft_config[ADAPTER]
        return config, state

    def merge(self) -> None:
        self._tuner.merge_and_unload()


class PeftMethod(Method):
    """The method of a PEFT tuner; a subclass defines the tuner and its config."""

    @abstractmethod
    def build_part(self, backbone: Any, context: AttachContext) -> PeftPart:
        """Puts the layers into the backbone."""

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        part = self.build_part(model.backbone, context)
        return AttachedModel(model, {part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {self.settings.group: self.settings.count_parameters(shape)}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        resized: MethodSettings = self.settings.resized(shape, budget)
        return resized
