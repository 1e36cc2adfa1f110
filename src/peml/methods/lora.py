"""LoRA on a model's linear layers, through PEFT (Hu et al., 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field

from peml.errors import ModelError
from peml.files import write_tensors
from peml.methods.base import AttachContext, AttachedModel, Method, MethodSettings, ParameterGroup
from peml.models import TaskModel
from peml.prefix import Prefix
from peml.settings import Settings

__all__ = ["Lora", "LoraMethodSettings", "LoraPart", "LoraSettings"]

_ADAPTER = "default"


class LoraSettings(Settings):
    """Low-rank updates of the model's linear layers."""

    r: int = Field(8, description="Rank.", ge=1)
    alpha: float = Field(16.0, description="The update is scaled by alpha / r.", gt=0)
    dropout: float = Field(0.0, description="Dropout on the update's input.", ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="PEFT's target_modules: names, a regular expression, or all."
    )
    learning_rate: float = Field(5e-4, description="Default rate of the group `lora`.", gt=0)


class LoraMethodSettings(MethodSettings):
    """LoRA alone."""

    name: Literal["lora"] = "lora"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")


class LoraPart:
    """PEFT's LoRA layers inside a model.

    Only the tuner is used, not a `PeftModel`, so that the model keeps its class and signature
    and nothing of PEFT's prompt learning comes in its way.
    """

    name = "lora"

    def __init__(self, model: Any, settings: LoraSettings, seed: int) -> None:
        self.settings = settings
        target = settings.target_modules
        config = LoraConfig(
            r=settings.r,
            lora_alpha=cast(int, settings.alpha),
            lora_dropout=settings.dropout,
            target_modules=target if isinstance(target, str) else list(target),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._tuner = LoraModel(model, config, _ADAPTER)
            except (ValueError, re.error) as error:
                raise ModelError(
                    f"LoRA can't be attached: {error}",
                    action="set method.lora.target_modules to names of this model's layers",
                ) from error
        self._layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self._parameters = [
            p for name, p in model.named_parameters() if ".lora_" in name and _ADAPTER in name
        ]
        for parameter in self._parameters:
            # The adapter trains in float32 whatever the frozen weights are stored in.
            parameter.data = parameter.data.float()

    def prepare(self) -> None:
        """Nothing to do: the layers are part of the model."""

    def groups(self) -> list[ParameterGroup]:
        """One group, `lora`."""
        return [ParameterGroup("lora", self._parameters, self.settings.learning_rate)]

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
        config = self._tuner.peft_config[_ADAPTER]
        config.base_model_name_or_path = base_model
        config.save_pretrained(target)
        # Left to itself PEFT asks the hub whether the base model's vocabulary has grown.
        state = get_peft_model_state_dict(
            self._tuner, adapter_name=_ADAPTER, save_embedding_layers=False
        )
        # A PeftModel would hold the tuner under the name base_model.
        named = {f"base_model.{name}": value for name, value in state.items()}
        write_tensors(target / "adapter_model.safetensors", named)

    def merge(self) -> None:
        """Adds the updates to the frozen weights and removes the layers."""
        self._tuner.merge_and_unload()

    def static_prefix(self) -> Prefix | None:
        """None."""
        return None


class Lora(Method):
    """LoRA on all linear layers, heads beside it."""

    settings_type: ClassVar[type[MethodSettings]] = LoraMethodSettings

    def __init__(self, settings: LoraMethodSettings) -> None:
        self.settings = settings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds the LoRA layers."""
        part = LoraPart(model.backbone, self.settings.lora, context.seed)
        return AttachedModel(model, {part.name: part})
