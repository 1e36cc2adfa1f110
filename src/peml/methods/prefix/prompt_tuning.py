"""Prompt tuning: learnt vectors in front of the input embeddings (Lester et al., 2104.08691)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.prefix.prompt import PromptPart, draw_embeddings
from peml.methods.prefix.settings import PromptTuningSettings
from peml.methods.shape import ModelShape, nearest_size
from peml.models import TaskModel, check_prompt


class PromptTuning(Method):
    """A prompt alone, heads beside it."""

    settings_type: ClassVar[type[MethodSettings]] = PromptTuningSettings
    settings: PromptTuningSettings

    @property
    def prompt_length(self) -> int:
        """The settings' length."""
        return self.settings.length

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds the prompt.

        Raises:
            ModelError: The model's learned positions have no room for it.
        """
        check_prompt(model.family, self.settings.length)
        generator = torch.Generator().manual_seed(context.seed)
        vectors = self._start(model, generator)
        part = PromptPart(model, vectors, self.settings.learning_rate)
        return AttachedModel(model, {part.name: part}, modules={part.name: part})

    def _start(self, model: TaskModel, generator: torch.Generator) -> Tensor:
        length = self.settings.length
        if self.settings.start == "normal":
            channels = model.backbone.get_input_embeddings().weight.shape[1]
            return torch.randn(length, channels, generator=generator).to(model.device)
        return draw_embeddings(model, length, generator)

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """Length times channels."""
        return {"prompt": self.settings.length * shape.hidden_size}

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another length, as far as the model has positions for it."""
        length = nearest_size(lambda n: n * shape.hidden_size, budget)
        if shape.free_positions is not None:
            length = max(1, min(length, shape.free_positions))
        return self.settings.model_copy(update={"length": length})
