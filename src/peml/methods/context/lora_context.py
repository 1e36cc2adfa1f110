"""LoRA beside contexts: a task's instruction and solved rows as keys and values."""

from typing import ClassVar

from peml.injection.inject import attach_prefix
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings, Part
from peml.methods.budget import fit_beside_lora
from peml.methods.context.correction import Correction
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings, CorrectionSettings, LoraContextSettings
from peml.methods.lora.lora import LoraPart
from peml.methods.shape import ModelShape
from peml.models import TaskModel
from peml.prefix.size import SizeRange


class LoraContext(Method):
    """LoRA on all linear layers, and a context per task, with or without a trained correction."""

    settings_type: ClassVar[type[MethodSettings]] = LoraContextSettings
    settings: LoraContextSettings

    @property
    def context(self) -> ContextSettings:
        return self.settings.context

    @property
    def corrects_contexts(self) -> bool:
        return self.settings.correction.trains != "none"

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        injection = attach_prefix(model.backbone)
        part = ContextPart(model, injection, self.context)
        lora = LoraPart(model.backbone, self.settings.lora, context.seed)
        part.use_rows(context.solved, without_update=lora.disabled)
        parts: dict[str, Part] = {lora.name: lora, part.name: part}
        if self.corrects_contexts:
            lengths = self.context.held([len(tokens) for tokens in part.tokens])
            settings = self.settings.correction
            correction = Correction(injection.shape, lengths, settings, context.seed)
            part.correct(correction.to(model.device))
            parts[correction.name] = correction
        return AttachedModel(model, parts)

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        correction = self._count(self.settings.correction, shape)
        return {"lora": self.settings.lora.count_parameters(shape), "correction": correction}

    def _count(self, correction: CorrectionSettings, shape: ModelShape) -> int:
        if correction.trains == "none":
            return 0
        return correction.count(shape, self.context.held(shape.known_contexts()))

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA; also of the correction if no LoRA is close to the budget."""
        smaller = self.settings.correction.smaller()
        sized = ((each, SizeRange.exactly(self._count(each, shape))) for each in smaller)
        correction, lora = fit_beside_lora(sized, self.settings.lora, shape, budget)
        return self.settings.model_copy(update={"lora": lora, "correction": correction})
