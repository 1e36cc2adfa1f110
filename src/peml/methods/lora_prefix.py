"""LoRA beside a prefix without a search: the baseline for a search."""

from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.budget import fit_beside_lora
from peml.methods.lora.lora import LoraPart
from peml.methods.prefix.part import attach_fixed
from peml.methods.settings import LoraPrefixSettings
from peml.methods.shape import ModelShape
from peml.models import TaskModel
from peml.prefix.size import SizeRange


class LoraPrefix(Method):
    """LoRA on all linear layers and a fixed prefix."""

    settings_type: ClassVar[type[MethodSettings]] = LoraPrefixSettings
    settings: LoraPrefixSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        settings = self.settings
        lora = LoraPart(model.backbone, settings.lora, context.seed)
        part = attach_fixed(model, settings, context, settings.prefix_learning_rate)
        return AttachedModel(model, {lora.name: lora, part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {
            "lora": self.settings.lora.count_parameters(shape),
            "prefix": self.settings.count_prefix(shape),
        }

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA; also a smaller prefix if no rank is close to the budget."""
        sized = (
            (settings, SizeRange.exactly(settings.count_prefix(shape)))
            for settings in self.settings.smaller_prefixes()
        )
        chosen, lora = fit_beside_lora(sized, self.settings.lora, shape, budget)
        return chosen.model_copy(update={"lora": lora})
