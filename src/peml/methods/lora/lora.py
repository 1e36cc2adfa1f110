"""LoRA on a model's linear layers, through PEFT (Hu et al., 2106.09685)."""

from typing import Any, ClassVar

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear, LoraLayer, LoraModel
from torch import Tensor
from torch.nn import functional

from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.part import ADAPTER, PeftMethod, PeftPart
from peml.methods.lora.settings import LoraMethodSettings, LoraSettings, RsLoraSettings


class ScaledLinear(Linear):
    """PEFT's LoRA of a linear layer, with less work per token.

    The scale multiplies B instead of the update. Under autocast, the input isn't cast to A's
    float32: autocast would cast it back, to a copy per layer that is kept for the backward pass.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output, (..., d_out), with the update of its only adapter."""
        if args or kwargs or self.disable_adapters or self.merged:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        result = self.base_layer(x)
        first, last = self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(first.weight.dtype)
        low = first(self.lora_dropout[ADAPTER](x))
        update = functional.linear(low, last.weight * self.scaling[ADAPTER])
        return (result + update).to(result.dtype)


class LoraPart(PeftPart):
    """PEFT's LoRA layers inside a model, whose ranks can be cut."""

    def __init__(self, model: Any, settings: LoraSettings, seed: int) -> None:
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            **settings.peft_options,
        )
        super().__init__(model, LoraModel, config, settings, seed)
        for layer in self._layers.values():
            if type(layer) is Linear and not layer.lora_variant:
                layer.__class__ = ScaledLinear

    def layers(self) -> dict[str, LoraLayer]:
        """PEFT's layers by their path in the model."""
        return {path: layer for path, layer in self._layers.items() if isinstance(layer, LoraLayer)}

    def cut(self, path: str, layer: LoraLayer, rank: int) -> None:
        """Keeps the first rows of A and columns of B in a linear layer; the scale stays."""
        first, last = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        first.weight.data = first.weight.data[:rank].clone()
        last.weight.data = last.weight.data[:, :rank].clone()
        first.out_features = last.in_features = rank
        scale, config = layer.scaling[ADAPTER], self._tuner.peft_config[ADAPTER]
        layer.r[ADAPTER], layer.lora_alpha[ADAPTER] = rank, scale * rank
        config.rank_pattern[path], config.alpha_pattern[path] = rank, scale * rank


class Lora(PeftMethod):
    """LoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = LoraMethodSettings

    def build_part(self, backbone: Any, context: AttachContext) -> LoraPart:
        return LoraPart(backbone, self.settings, context.seed)


class RsLora(Lora):
    """LoRA scaled by alpha / sqrt(r) (rank-stabilised; Kalajdzievski, 2312.03732)."""

    settings_type: ClassVar[type[MethodSettings]] = RsLoraSettings
