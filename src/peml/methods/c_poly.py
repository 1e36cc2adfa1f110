"""C-Poly (arXiv 2312.03248): skills all tasks share, and skills of a task's own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from peml.adapters import CPolyDelta, Delta, TaskRouting
from peml.methods.adapter import AdapterMethod, AdapterSettings
from peml.methods.base import Merging, MethodSettings
from peml.methods.targets import LinearShape

__all__ = ["CPoly", "CPolySettings"]


class CPolySettings(AdapterSettings):
    """A sum of shared and own low-rank skills, weighed by task."""

    name: Literal["c-poly"] = "c-poly"
    r: int = Field(2, description="Rank of one skill.", ge=1)
    alpha: float = Field(4.0, description="The update is scaled by alpha / r.", gt=0)
    shared: int = Field(3, description="Skills all tasks share.", ge=1)
    own: int = Field(1, description="Skills of each task; 0 with mixing=factors is Poly.", ge=0)
    mixing: Literal["outputs", "factors"] = Field(
        "outputs", description="Mix the skills' outputs, or average their factors as Poly does."
    )
    own_matrix: Literal["full", "diagonal"] = Field(
        "full",
        description="full: a task may also learn to use other tasks' own skills; diagonal: its "
        "own only, which costs the same however many tasks there are.",
    )
    normalised: bool = Field(True, description="A task's shared weights sum to 1.")
    noise: bool = Field(True, description="Shared weights are drawn while training.")
    routing_learning_rate: float = Field(
        1e-2, description="Default rate of the group `routing`, the skills' weights.", gt=0
    )


class CPoly(AdapterMethod):
    """C-Poly on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = CPolySettings
    fast_group: ClassVar[tuple[str, str] | None] = ("routing", "routing_learning_rate")
    settings: CPolySettings

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        """A delta for each layer."""
        settings = self.settings
        return {
            layer.name: CPolyDelta(
                layer.d_in,
                layer.d_out,
                routing,
                r=settings.r,
                scale=settings.scale,
                dropout=settings.dropout,
                shared=settings.shared,
                own=settings.own,
                mixing=settings.mixing,
                own_matrix=settings.own_matrix,
                normalised=settings.normalised,
                noise=settings.noise,
            )
            for layer in layers
        }

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        """All skills' factors; shared and own weights."""
        settings = self.settings
        skills = settings.shared + tasks * settings.own
        weighed = settings.shared + (
            tasks * settings.own if settings.own_matrix == "full" else settings.own
        )
        return {
            "adapter": sum(skills * r * (layer.d_in + layer.d_out) for layer in layers),
            "routing": len(layers) * tasks * weighed,
        }

    @property
    def merging(self) -> Merging:
        """One set of weights a task."""
        return Merging("per task", "each task weighs the skills in its own way")
