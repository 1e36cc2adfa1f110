"""The frozen model: only an encoder's heads train, and text-to-text models answer zero-shot."""

from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.settings import FrozenSettings
from peml.methods.shape import ModelShape
from peml.models import TaskModel


class Frozen(Method):
    """Trains an encoder's heads; a text-to-text model, which has none, answers zero-shot."""

    settings_type: ClassVar[type[MethodSettings]] = FrozenSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        return AttachedModel(model, {})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {}
