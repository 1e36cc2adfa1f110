"""LoRA beside contexts: the task's instruction and solved rows, held as keys and values."""

from __future__ import annotations

from typing import ClassVar

from peml.injection import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings, LoraContextSettings
from peml.methods.lora.lora import LoraPart
from peml.methods.shape import ModelShape
from peml.models import TaskModel


class LoraContext(Method):
    """LoRA on all linear layers, and a context per task that is computed rather than trained."""

    settings_type: ClassVar[type[MethodSettings]] = LoraContextSettings

    def __init__(self, settings: LoraContextSettings) -> None:
        self.settings = settings

    @property
    def context(self) -> ContextSettings:
        """What each task's context holds."""
        return self.settings.context

    @property
    def needs_task_id(self) -> bool:
        """Yes: each task's rows see their own context."""
        return True

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Computes the contexts, then adds the LoRA."""
        injection = attach_prefix(model.backbone)
        part = ContextPart(model, injection, self.settings.context)
        lora = LoraPart(model.backbone, self.settings.lora, context.seed)
        if self.settings.context.draw == "step":
            part.draw_from(context.solved, without_update=lora.disabled)
        return AttachedModel(model, {lora.name: lora, part.name: part}, modules={part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The LoRA's."""
        return {"lora": self.settings.lora.count_parameters(shape)}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA."""
        lora = self.settings.lora.resized(shape, budget)
        return self.settings.model_copy(update={"lora": lora})
