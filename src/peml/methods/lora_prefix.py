"""LoRA beside a prefix nobody searched: what a search has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method, MethodSettings
from peml.methods.budget import fit_beside_lora, halvings
from peml.methods.lora.lora import LoraPart, LoraSettings
from peml.methods.prefix.part import FixedPrefixSettings, attach_fixed
from peml.methods.shape import ModelShape
from peml.models import TaskModel
from peml.prefix import SizeRange

__all__ = ["LoraPrefix", "LoraPrefixSettings"]


class LoraPrefixSettings(FixedPrefixSettings):
    """LoRA and a prefix that is fixed: from a two-layer MLP, or flat."""

    name: Literal["lora+prefix"] = "lora+prefix"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    prefix_learning_rate: float | None = Field(
        None,
        description="Default rate of the group `prefix`; left out, 1e-3 for an MLP and 0.1 for a "
        "flat prefix, whose rows need larger steps.",
        gt=0,
    )

    def smaller_prefixes(self) -> Iterator[LoraPrefixSettings]:
        """These settings, then ever smaller prefixes: shorter, or with a head of ever lower rank.

        The MLP's width is halved when even a head of rank 1 is too large.
        """
        yield self
        if self.network == "flat":
            for length in range(self.length - 1, 0, -1):
                yield self.model_copy(update={"length": length})
            return
        for width in halvings(self.width):
            ranks = width if self.head == "full" else min(self.head_rank, width)
            for rank in range(ranks, 0, -1):
                update = {"width": width, "head": "low-rank", "head_rank": rank}
                yield self.model_copy(update=update)


class LoraPrefix(Method):
    """LoRA on all linear layers and a fixed prefix."""

    settings_type: ClassVar[type[MethodSettings]] = LoraPrefixSettings

    def __init__(self, settings: LoraPrefixSettings) -> None:
        self.settings = settings

    def attach(self, model: TaskModel, context: AttachContext) -> AttachedModel:
        """Adds LoRA and prefix."""
        settings = self.settings
        lora = LoraPart(model.backbone, settings.lora, context.seed)
        part = attach_fixed(model, settings, context, settings.prefix_learning_rate)
        return AttachedModel(model, {lora.name: lora, part.name: part}, modules={part.name: part})

    def count_parameters(self, shape: ModelShape) -> dict[str, int]:
        """The LoRA's, and the prefix's."""
        return {
            "lora": self.settings.lora.count_parameters(shape),
            "prefix": self.settings.count_prefix(shape),
        }

    def resized(self, shape: ModelShape, budget: int) -> MethodSettings:
        """Another rank of the LoRA, and a smaller prefix where no rank comes near the budget."""
        sized = (
            (settings, SizeRange.exactly(settings.count_prefix(shape)))
            for settings in self.settings.smaller_prefixes()
        )
        chosen, lora = fit_beside_lora(sized, self.settings.lora, shape, budget)
        return chosen.model_copy(update={"lora": lora})
