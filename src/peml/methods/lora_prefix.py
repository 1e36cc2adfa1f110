"""LoRA beside a prefix of a fixed two-layer MLP: what a search has to beat."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from peml.methods.base import AttachContext, AttachedModel, Method, MethodSettings
from peml.methods.lora import LoraPart, LoraSettings
from peml.methods.prefix import attach_network
from peml.models import TaskModel
from peml.prefix import Genotype, PrefixShape

__all__ = ["LoraPrefix", "LoraPrefixSettings"]


class LoraPrefixSettings(MethodSettings):
    """LoRA and a prefix whose network is fixed: embeddings, a two-layer MLP, a full head."""

    name: Literal["lora+prefix"] = "lora+prefix"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    length: int = Field(16, description="Prefix positions.", ge=1)
    width: int = Field(64, description="Channels of the network.", ge=1)
    quietness: float = Field(4.0, description="See the searched prefix.", ge=0)
    radius: float = Field(1.0, description="See the searched prefix.", gt=0)
    prefix_learning_rate: float = Field(
        1e-3, description="Default rate of the group `prefix`.", gt=0
    )


class LoraPrefix(Method):
    """LoRA on all linear layers and a fixed prefix network."""

    settings_type: ClassVar[type[MethodSettings]] = LoraPrefixSettings

    def __init__(self, settings: LoraPrefixSettings) -> None:
        self.settings = settings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds LoRA and prefix."""
        settings = self.settings
        lora = LoraPart(model.backbone, settings.lora, context.seed)

        def genotype(shape: PrefixShape) -> Genotype:
            return Genotype.fixed_mlp(
                shape, length=settings.length, width=settings.width, radius=settings.radius
            )

        part = attach_network(
            model,
            genotype,
            settings.quietness,
            context,
            learning_rate=settings.prefix_learning_rate,
        )
        return AttachedModel(model, {lora.name: lora, part.name: part}, modules={part.name: part})
