"""DoRA: weights split into direction and magnitude (Liu et al., 2402.09353), through PEFT."""

from typing import Any, ClassVar

from peml.methods.base import AttachContext, MethodSettings, ParameterGroup
from peml.methods.lora.lora import Lora, LoraPart
from peml.methods.lora.part import ADAPTER
from peml.methods.lora.settings import DoraSettings
from peml.methods.shape import ModelShape
from peml.models.quantization import dense_weight


class DoraPart(LoraPart):
    """PEFT's DoRA layers: W' = m (W + s B A) / ||W + s B A||, with a norm for each output.

    The norm is computed in every step and carries no gradient (section 4.3 of the paper).
    """

    def __init__(self, model: Any, settings: DoraSettings, seed: int) -> None:
        super().__init__(model, settings, seed)
        for layer in self.layers().values():
            # PEFT takes the norms in the precision of the frozen weights and compares them with
            # norms in float32 later: a model stored in bf16 would not start as itself.
            magnitude = layer.get_submodule(f"lora_magnitude_vector.{ADAPTER}")
            weight = dense_weight(layer.get_base_layer()).detach().float()
            magnitude.weight.data = magnitude.get_weight_norm(weight, weight.new_zeros(()), 1.0)

    def groups(self) -> list[ParameterGroup]:
        """`lora`, and `magnitude`, which weight decay would pull away from the weights' norms."""
        parameters = self._parameters.items()
        magnitudes = [p for name, p in parameters if ".lora_magnitude_vector." in name]
        factors = [p for name, p in parameters if ".lora_magnitude_vector." not in name]
        rate = self.settings.learning_rate
        return [
            ParameterGroup("lora", factors, rate),
            ParameterGroup("magnitude", magnitudes, rate, {"weight_decay": 0.0}),
        ]


class Dora(Lora):
    """DoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = DoraSettings

    def build_part(self, backbone: Any, context: AttachContext) -> DoraPart:
        return DoraPart(backbone, self.settings, context.seed)

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        magnitudes = self.settings.count_magnitudes(shape)
        return {**super().count_parameters(shape), "magnitude": magnitudes}
