"""Prefix tuning: learnt keys and values in every layer (Li and Liang, 2101.00190)."""

from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.prefix.part import attach_fixed
from peml.methods.prefix.settings import PrefixTuningSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.models import TaskModel


class PrefixTuning(Method):
    """A prefix in front of every self-attention layer."""

    settings_type: ClassVar[type[MethodSettings]] = PrefixTuningSettings
    settings: PrefixTuningSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        part = attach_fixed(model, self.settings, context, self.settings.learning_rate)
        return AttachedModel(model, {part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {"prefix": self.settings.count_prefix(shape)}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another length (flat), or another width of the MLP."""
        size = "length" if self.settings.network == "flat" else "width"

        def at(value: int) -> PrefixTuningSettings:
            return self.settings.model_copy(update={size: value})

        return at(nearest_size(lambda value: at(value).count_prefix(shape), budget))
