"""Config sections of the multi-task methods; no torch, see `peml.methods.registry`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peml.methods.base import MethodSettings
from peml.methods.lora.settings import UpdateSettings


class AdapterSettings(UpdateSettings, MethodSettings):
    """Common settings of the multi-task methods' low-rank layers."""

    r: int = Field(8, description="Rank.", ge=1)
    alpha: float = Field(16.0, description="The update is scaled by alpha / r.", gt=0)

    @property
    def scale(self) -> float:
        """The factor of the update."""
        return self.alpha / self.r


class CPolySettings(AdapterSettings):
    """A weighted sum of low-rank skills, shared and per task; the weights are per task."""

    name: Literal["c-poly"] = "c-poly"
    r: int = Field(2, description="Rank of one skill.", ge=1)
    alpha: float = Field(4.0, description="The update is scaled by alpha / r.", gt=0)
    shared: int = Field(3, description="Skills that all tasks share.", ge=1)
    own: int = Field(1, description="Skills of each task; 0 with mixing=factors is Poly.", ge=0)
    mixing: Literal["outputs", "factors"] = "outputs"
    """Mix the skills' outputs, or average their factors as Poly does."""
    own_matrix: Literal["full", "diagonal"] = "full"
    """full: a task may also learn to use other tasks' own skills; diagonal: only its own, so the
    cost does not grow with the number of tasks."""
    normalised: bool = Field(True, description="A task's weights of the shared skills sum to 1.")
    noise: bool = True
    """Add noise to the weights of the shared skills during training."""
    routing_learning_rate: float = Field(1e-2, gt=0)
    """Default learning rate of the group `routing`, the skills' weights."""


class MoeLoraSettings(AdapterSettings):
    """Experts of rank r / experts, weighted by a gate or a router."""

    name: Literal["moe-lora"] = "moe-lora"
    r: int = Field(8, description="Rank of all experts together.", ge=1)
    experts: int = Field(4, description="Number of experts; r must be a multiple of it.", ge=1)
    routing: Literal["task", "token"] = "task"
    """What sets the experts' weights: the task, or each token."""
    gate: Literal["shared", "per-layer"] = "shared"
    """Task routing: one gate for the whole model, or one per layer."""
    embedding: int = Field(64, description="Task routing: size of a task's embedding.", ge=1)
    top_k: int = Field(2, description="Token routing: experts used per token.", ge=1)
    balance: float = Field(0.01, ge=0)
    """Token routing: weight of the load-balancing loss."""
    routing_learning_rate: float = Field(5e-3, gt=0)
    """Default rate of the group `routing`, gate or routers."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.r % self.experts:
            raise ValueError(
                f"r ({self.r}) is not a multiple of experts ({self.experts}); "
                f"{self.r - self.r % self.experts or self.experts} would be"
            )
        if self.routing == "token" and self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) is larger than experts ({self.experts})")
        return self


class MtlLoraSettings(AdapterSettings):
    """Shared factors, with a transform and a mix per task."""

    name: Literal["mtl-lora"] = "mtl-lora"
    bases: int = Field(3, description="Number of B matrices that tasks mix.", ge=1)
    temperature: float = Field(0.1, gt=0)
    """Temperature of the softmax over the B matrices."""
    transform: Literal["full", "diagonal"] = "full"
    """A task's transform between A and B: an r x r matrix, or r scales."""
    mixing_start: Literal["even", "random"] = "even"
    """even: all B matrices start with nearly equal weights; random: as in the published code, where
    a temperature of 0.1 ties most tasks to one B chosen at random."""
    routing_learning_rate: float = Field(5e-3, gt=0)
    """Default rate of the group `routing`."""


class MultiLoraSettings(AdapterSettings):
    """Parallel branches of rank r."""

    name: Literal["multilora"] = "multilora"
    r: int = Field(4, description="Rank of one branch.", ge=1)
    alpha: float = Field(8.0, description="The update is scaled by alpha / r.", gt=0)
    branches: int = Field(3, description="Number of parallel branches.", ge=1)
    scaling_learning_rate: float = Field(5e-3, gt=0)
    """Default rate of the group `scaling`, the branches' output scales."""
