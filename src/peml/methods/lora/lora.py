"""LoRA on a model's linear layers, through PEFT (Hu et al., 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from peml.errors import ModelError
from peml.files import write_tensors
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings, ParameterGroup, Part
from peml.methods.lora.settings import LoraMethodSettings, LoraSettings, LowRankSettings
from peml.methods.shape import ModelShape
from peml.methods.targets import read_layers
from peml.models import TaskModel

ADAPTER = "default"
"""PEFT's name of the one adapter there is."""


def _exactly_on(paths: Set[str], tuner_type: type[LoraModel]) -> type[LoraModel]:
    """A tuner that works on these layers, whatever else PEFT would make of their names.

    For mixtures of experts PEFT rewrites ``target_modules`` first: it adds the experts, and takes
    dense layers that share a name with them out.
    """

    class ExactTuner(tuner_type):
        def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
            peft_config.target_modules = set(paths)
            peft_config.target_parameters = None
            return peft_config

    return ExactTuner


class LoraPart(Part):
    """PEFT's LoRA layers inside a model.

    Only the tuner is used, not a `PeftModel`, so that the model keeps its class and signature
    and nothing of PEFT's prompt learning comes in its way.

    Attributes:
        tuner_type: PEFT's class that puts the layers in.
    """

    name = "lora"
    tuner_type: ClassVar[type[LoraModel]] = LoraModel

    def __init__(self, model: Any, settings: LowRankSettings, seed: int) -> None:
        self.settings = settings
        targets = {layer.name for layer in settings.targets(read_layers(model))}
        config = self.build_config()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._tuner = _exactly_on(targets, self.tuner_type)(model, config, ADAPTER)
            except ValueError as error:
                raise ModelError(
                    f"LoRA can't be attached: {error}",
                    action="leave the layer out of method.lora.target_modules",
                ) from error
        attached = set(self.layers())
        if attached != targets:
            raise ModelError(
                "LoRA was attached to other layers than asked for: "
                f"{', '.join(sorted(attached ^ targets))}",
                action="leave these layers out of method.lora.target_modules",
            )
        self._layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self._parameters: dict[str, nn.Parameter] = {
            name: p for name, p in model.named_parameters() if ".lora_" in name and ADAPTER in name
        }
        for parameter in self._parameters.values():
            # The adapter trains in float32 whatever the frozen weights are stored in.
            parameter.data = parameter.data.float()

    def layers(self) -> dict[str, LoraLayer]:
        """PEFT's layers by their path in the model."""
        named = self._tuner.model.named_modules()
        return {path: module for path, module in named if isinstance(module, LoraLayer)}

    def cut(self, path: str, layer: LoraLayer, rank: int) -> None:
        """Keeps the first rows of A and columns of B in a linear layer; the scale stays."""
        first, last = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        first.weight.data = first.weight.data[:rank].clone()
        last.weight.data = last.weight.data[:, :rank].clone()
        first.out_features = last.in_features = rank
        scale, config = layer.scaling[ADAPTER], self._tuner.peft_config[ADAPTER]
        layer.r[ADAPTER], layer.lora_alpha[ADAPTER] = rank, scale * rank
        config.rank_pattern[path], config.alpha_pattern[path] = rank, scale * rank

    def build_config(self) -> LoraConfig:
        """PEFT's config of the layers."""
        settings = cast(LoraSettings, self.settings)
        return LoraConfig(r=settings.r, **self.common_options())

    def common_options(self) -> dict[str, Any]:
        """What the configs of the whole family say in the same words."""
        return {
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "target_modules": [],  # see `_exactly_on`
            **self.settings.peft_options,
        }

    def groups(self) -> list[ParameterGroup]:
        """One group, `lora`."""
        parameters = list(self._parameters.values())
        return [ParameterGroup("lora", parameters, self.settings.learning_rate)]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model without its low-rank updates."""
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)

    def save(self, folder: Path, base_model: str) -> None:
        """Writes ``lora/`` as PEFT does, to be loaded by ``PeftModel.from_pretrained``."""
        target = folder / "lora"
        config, state = self.peft_format()
        config.base_model_name_or_path = base_model
        config.save_pretrained(target)
        # A PeftModel would hold the tuner under the name base_model.
        named = {f"base_model.{name}": value for name, value in state.items()}
        write_tensors(target / "adapter_model.safetensors", named)

    def peft_format(self) -> tuple[LoraConfig, dict[str, Tensor]]:
        """Config and tensors as PEFT saves them."""
        # Left to itself PEFT asks the hub whether the base model's vocabulary has grown.
        state = get_peft_model_state_dict(
            self._tuner, adapter_name=ADAPTER, save_embedding_layers=False
        )
        return cast(LoraConfig, self._tuner.peft_config[ADAPTER]), state

    def merge(self) -> None:
        """Adds the updates to the frozen weights and removes the layers."""
        self._tuner.merge_and_unload()


class Lora(Method):
    """LoRA on all linear layers, heads beside it.

    The rest of the family differs in the settings and in the part.
    """

    settings_type: ClassVar[type[MethodSettings]] = LoraMethodSettings
    settings: Any

    def __init__(self, settings: MethodSettings) -> None:
        self.settings = settings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds the LoRA layers."""
        part = self.build_part(model, context)
        return AttachedModel(model, {part.name: part})

    def build_part(self, model: TaskModel, context: AttachContext) -> LoraPart:
        """Puts the layers into the backbone."""
        return LoraPart(model.backbone, self.settings.lora, context.seed)

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The LoRA's."""
        return {"lora": self.settings.lora.count_parameters(shape)}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank."""
        settings: MethodSettings = self.settings
        return settings.model_copy(update={"lora": self.settings.lora.resized(shape, budget)})
