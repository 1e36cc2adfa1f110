"""MTL-LoRA (arXiv 2410.09437): shared factors, re-mixed for each task."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from peml.adapters import Delta, MtlLoraDelta, TaskRouting
from peml.methods.adapter import AdapterMethod, AdapterSettings
from peml.methods.base import Merging, MethodSettings
from peml.methods.targets import LinearShape

__all__ = ["MtlLora", "MtlLoraSettings"]


class MtlLoraSettings(AdapterSettings):
    """Shared factors with a transform and a mix of each task's own."""

    name: Literal["mtl-lora"] = "mtl-lora"
    bases: int = Field(3, description="B matrices that tasks mix.", ge=1)
    temperature: float = Field(0.1, description="Of the softmax that mixes them.", gt=0)
    transform: Literal["full", "diagonal"] = Field(
        "full", description="A task's transform between A and B: r x r, or r scales."
    )
    mixing_start: Literal["even", "random"] = Field(
        "even",
        description="even: all B nearly alike; random: as the published code, where at a "
        "temperature of 0.1 most tasks start bound to one B drawn at random.",
    )
    routing_learning_rate: float = Field(
        5e-3, description="Default rate of the group `routing`.", gt=0
    )


class MtlLora(AdapterMethod):
    """MTL-LoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MtlLoraSettings
    fast_group: ClassVar[tuple[str, str] | None] = ("routing", "routing_learning_rate")
    settings: MtlLoraSettings

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        """A delta for each layer."""
        settings = self.settings
        return {
            layer.name: MtlLoraDelta(
                layer.d_in,
                layer.d_out,
                routing,
                r=settings.r,
                scale=settings.scale,
                dropout=settings.dropout,
                bases=settings.bases,
                temperature=settings.temperature,
                diagonal=settings.transform == "diagonal",
                random_mixing=settings.mixing_start == "random",
            )
            for layer in layers
        }

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        """A, the transforms, the B; and the mix."""
        bases = self.settings.bases
        transform = tasks * (r * r if self.settings.transform == "full" else r)
        factors = sum(r * layer.d_in + transform + bases * r * layer.d_out for layer in layers)
        return {"adapter": factors, "routing": len(layers) * tasks * bases}

    @property
    def merging(self) -> Merging:
        """One set of weights a task."""
        return Merging("per task", "each task has its own transform and mix")
