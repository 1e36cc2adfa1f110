"""LoRA beside contexts: a task's instruction and solved rows as keys and values."""

from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.budget import fit_beside_lora
from peml.methods.context.held import ContextMethod
from peml.methods.context.settings import LoraContextSettings
from peml.methods.lora.lora import LoraPart
from peml.methods.shape import ModelShape
from peml.models import TaskModel
from peml.prefix.size import SizeRange


class LoraContext(ContextMethod):
    """LoRA on all linear layers, and a context per task, with or without a trained correction."""

    settings_type: ClassVar[type[MethodSettings]] = LoraContextSettings
    settings: LoraContextSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        held = self._hold(model)
        lora = LoraPart(model.backbone, self.settings.lora, context.seed)
        parts = self._parts(held, model, context, lora.disabled)
        return AttachedModel(model, {lora.name: lora, **parts})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        correction = self._count(self.settings.correction, shape)
        return {"lora": self.settings.lora.count_parameters(shape), "correction": correction}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA; also of the correction if no LoRA is close to the budget."""
        smaller = self.settings.correction.smaller()
        sized = ((each, SizeRange.exactly(self._count(each, shape))) for each in smaller)
        correction, lora = fit_beside_lora(sized, self.settings.lora, shape, budget)
        return self.settings.model_copy(update={"lora": lora, "correction": correction})
