"""Rank-stabilised LoRA (Kalajdzievski, 2312.03732), through PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from peml.methods.base import MethodSettings
from peml.methods.lora.lora import Lora, LoraSettings

__all__ = ["RsLora", "RsLoraMethodSettings", "RsLoraSettings"]


class RsLoraSettings(LoraSettings):
    """Low-rank updates whose scale shrinks with the root of the rank."""

    peft_options: ClassVar[Mapping[str, Any]] = {"use_rslora": True}

    alpha: float = Field(16.0, description="The update is scaled by alpha / sqrt(r).", gt=0)

    def at_rank(self, r: int) -> Self:
        """Another rank; alpha stays, since one alpha for all ranks is what the method is for."""
        return self.model_copy(update={"r": r})


class RsLoraMethodSettings(MethodSettings):
    """Rank-stabilised LoRA alone."""

    name: Literal["rslora"] = "rslora"
    lora: RsLoraSettings = Field(default_factory=lambda: RsLoraSettings(), description="The LoRA.")


class RsLora(Lora):
    """LoRA scaled by alpha / sqrt(r), on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = RsLoraMethodSettings
