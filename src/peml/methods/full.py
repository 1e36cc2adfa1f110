"""Full fine-tuning: every weight of the backbone trains."""

from typing import ClassVar

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings, ParameterGroup
from peml.methods.settings import FullSettings
from peml.methods.shape import ModelShape
from peml.models import TaskModel


class Full(Method):
    """Trains all weights, embeddings included; nothing is added that could be switched off."""

    settings_type: ClassVar[type[MethodSettings]] = FullSettings
    trains_backbone: ClassVar[bool] = True
    settings: FullSettings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Lets the backbone train, in float32: in half precision small updates would be lost."""
        model.backbone.float().requires_grad_(True)
        # Tied weights are one parameter, listed once.
        parameters = list(model.backbone.parameters())
        group = ParameterGroup("backbone", parameters, self.settings.learning_rate)
        return AttachedModel(model, {}, groups=[group])

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        return {"backbone": shape.parameters}
