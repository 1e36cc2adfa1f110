"""Mixtures of LoRA experts, gated by the task (arXiv 2310.18339) or by each token."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from peml.adapters import Delta, TaskGate, TaskMoeDelta, TaskRouting, TokenMoeDelta
from peml.methods.adapter import AdapterMethod, AdapterSettings
from peml.methods.base import Merging, MethodSettings
from peml.methods.targets import LinearShape

__all__ = ["MoeLora", "MoeLoraSettings"]


class MoeLoraSettings(AdapterSettings):
    """Experts of rank r / experts and what weighs them."""

    name: Literal["moe-lora"] = "moe-lora"
    r: int = Field(8, description="Rank of all experts together.", ge=1)
    experts: int = Field(4, description="Experts; r is a multiple of it.", ge=1)
    routing: Literal["task", "token"] = Field(
        "task", description="Who decides the experts' weights: the task, or each token."
    )
    gate: Literal["shared", "per-layer"] = Field(
        "shared", description="Task routing: one gate for the whole model, or one a layer."
    )
    embedding: int = Field(64, description="Task routing: channels of a task's embedding.", ge=1)
    top_k: int = Field(2, description="Token routing: experts in use for a token.", ge=1)
    balance: float = Field(
        0.01, description="Token routing: weight of the load-balancing loss.", ge=0
    )
    routing_learning_rate: float = Field(
        5e-3, description="Default rate of the group `routing`, gate or routers.", gt=0
    )

    @model_validator(mode="after")
    def _fitting(self) -> MoeLoraSettings:
        if self.r % self.experts:
            raise ValueError(
                f"r ({self.r}) is not a multiple of experts ({self.experts}); "
                f"{self.r - self.r % self.experts or self.experts} would be"
            )
        if self.routing == "token" and self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) is larger than experts ({self.experts})")
        return self


class MoeLora(AdapterMethod):
    """A mixture of LoRA experts on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MoeLoraSettings
    fast_group: ClassVar[tuple[str, str] | None] = ("routing", "routing_learning_rate")
    settings: MoeLoraSettings

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        """A delta for each layer, with a gate of its own or the shared one."""
        settings = self.settings
        common: dict[str, Any] = {
            "r": settings.r,
            "scale": settings.scale,
            "dropout": settings.dropout,
            "experts": settings.experts,
        }
        if settings.routing == "token":
            return {
                layer.name: TokenMoeDelta(
                    layer.d_in,
                    layer.d_out,
                    routing,
                    top_k=settings.top_k,
                    side=layer.side,
                    **common,
                )
                for layer in layers
            }

        def gate() -> TaskGate:
            return TaskGate(routing.tasks, settings.experts, settings.embedding)

        shared = gate()
        return {
            layer.name: TaskMoeDelta(
                layer.d_in,
                layer.d_out,
                routing,
                shared if settings.gate == "shared" else gate(),
                **common,
            )
            for layer in layers
        }

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        """The experts' factors; gates or routers."""
        settings = self.settings
        factors = sum(r * (layer.d_in + layer.d_out) for layer in layers)
        if settings.routing == "token":
            routing = sum(settings.experts * layer.d_in for layer in layers)
        else:
            gates = 1 if settings.gate == "shared" else len(layers)
            routing = gates * settings.embedding * (tasks + settings.experts)
        return {"adapter": factors, "routing": routing}

    @property
    def rank_step(self) -> int:
        """Every expert has the same rank."""
        return self.settings.experts

    @property
    def auxiliary_weight(self) -> float:
        """Of the load-balancing loss."""
        return self.settings.balance

    @property
    def merging(self) -> Merging:
        """Per task with a task gate, never with a router."""
        if self.settings.routing == "token":
            return Merging("never", "the experts' weights depend on the token")
        return Merging("per task", "each task has its own weights of the experts")
