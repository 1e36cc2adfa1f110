"""MultiLoRA (arXiv 2311.11501): parallel branches with learnt output scales."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from peml.adapters import Delta, MultiLoraDelta, TaskRouting
from peml.methods.adapter import AdapterMethod, AdapterSettings
from peml.methods.base import MethodSettings
from peml.methods.targets import LinearShape

__all__ = ["MultiLora", "MultiLoraSettings"]


class MultiLoraSettings(AdapterSettings):
    """Parallel branches of rank r."""

    name: Literal["multilora"] = "multilora"
    r: int = Field(4, description="Rank of one branch.", ge=1)
    alpha: float = Field(8.0, description="The update is scaled by alpha / r.", gt=0)
    branches: int = Field(3, description="Parallel branches.", ge=1)
    scaling_learning_rate: float = Field(
        5e-3, description="Default rate of the group `scaling`, the branches' output scales.", gt=0
    )


class MultiLora(AdapterMethod):
    """MultiLoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MultiLoraSettings
    fast_group: ClassVar[tuple[str, str] | None] = ("scaling", "scaling_learning_rate")
    settings: MultiLoraSettings

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        """A delta for each layer; none of them routes."""
        settings = self.settings
        return {
            layer.name: MultiLoraDelta(
                layer.d_in,
                layer.d_out,
                r=settings.r,
                scale=settings.scale,
                dropout=settings.dropout,
                branches=settings.branches,
            )
            for layer in layers
        }

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        """The branches' factors, and their scales."""
        n = self.settings.branches
        return {
            "adapter": sum(n * r * (layer.d_in + layer.d_out) for layer in layers),
            "scaling": sum(n * layer.d_out for layer in layers),
        }
