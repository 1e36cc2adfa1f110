"""C-Poly: skills shared by all tasks and skills of one's own (Wang et al., arXiv 2312.03248)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peml.methods.base import Merging, MethodSettings
from peml.methods.routed.delta import Delta, low_rank_start
from peml.methods.routed.part import AdapterMethod, AdapterSettings
from peml.methods.targets import LinearShape
from peml.models import TaskRouting

__all__ = ["CPoly", "CPolyDelta", "CPolySettings"]


class CPolyDelta(Delta):
    """``y = s * (sum_i w_ti B_i A_i x + sum_j v_tj B_j A_j x)`` over shared and own skills.

    w comes from logits (tasks, shared) through a relaxed Bernoulli draw while training and a
    sigmoid otherwise; v starts as each task's own skills at 1 and all others at 0.

    With ``mixing="factors"`` the factors are averaged instead, as Polytropon does (arXiv
    2202.13914): ``A_t = sum_k w_tk A_k``, ``B_t = sum_k w_tk B_k``, ``y = s * B_t A_t x``.
    Without own skills that is Polytropon itself.

    Args:
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        routing: Tasks of the batch.
        r: Rank of one skill.
        scale: alpha / r.
        dropout: Dropout on the input.
        shared: Skills all tasks share.
        own: Skills of each task.
        mixing: Where the skills are mixed.
        own_matrix: ``full``: every task learns a weight for every task's own skills;
            ``diagonal``: for its own only, and the cost of a step doesn't grow with the tasks.
        normalised: Whether a task's weights of the shared skills sum to 1.
        noise: Whether they are drawn while training.
    """

    fast: ClassVar[tuple[str, ...]] = ("skill_logits", "own_weights")

    def __init__(
        self,
        d_in: int,
        d_out: int,
        routing: TaskRouting,
        *,
        r: int,
        scale: float,
        dropout: float,
        shared: int,
        own: int,
        mixing: Literal["outputs", "factors"],
        own_matrix: Literal["full", "diagonal"],
        normalised: bool,
        noise: bool,
    ) -> None:
        super().__init__(d_in, d_out, scale=scale, dropout=dropout)
        tasks = routing.tasks
        self.routing, self.mixing, self.own_matrix = routing, mixing, own_matrix
        self.shared, self.own = shared, own
        self.normalised, self.noise = normalised, noise
        self.down = low_rank_start((shared + tasks * own, r, d_in), d_in)
        self.up = nn.Parameter(torch.zeros(shared + tasks * own, r, d_out))
        self.skill_logits = nn.Parameter(torch.empty(tasks, shared).uniform_(-1e-3, 1e-3))
        identity = torch.eye(tasks).repeat_interleave(own, dim=1)
        self.own_weights = nn.Parameter(
            identity if own_matrix == "full" else torch.ones(tasks, own)
        )

    def shared_weights(self) -> Tensor:
        """How much each task takes of every shared skill, (tasks, shared)."""
        logits: Tensor = self.skill_logits
        if self.training and self.noise:
            draw = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits + draw.logit()  # a relaxed Bernoulli at temperature 1
        weights = logits.sigmoid()
        if self.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-12)
        return weights

    def _skills_of(self, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (rows, skills) and the factors they are for.

        The factors are (skills, r, d) where all rows share them, (rows, skills, r, d) where each
        row has its task's own.
        """
        weights = torch.cat([self.shared_weights(), self.own_weights], dim=1)[tasks]
        if self.own_matrix == "full" or not self.own:
            return weights, self.down, self.up
        mine = torch.arange(self.own, device=tasks.device) + tasks[:, None] * self.own
        common = torch.arange(self.shared, device=tasks.device).expand(len(tasks), -1)
        index = torch.cat([common, self.shared + mine], dim=1)
        return weights, self.down[index], self.up[index]

    def update(self, x: Tensor) -> Tensor:
        """See the class; rows gather what their task takes."""
        weights, down, up = self._skills_of(self.routing.rows(x.shape[0]))
        weights = self.scale * weights
        if self.mixing == "factors":
            return self._update_by_factors(x, weights, down, up)
        # One hidden channel per skill and rank; weighing them weighs the skills.
        channels = weights[:, None, :].repeat_interleave(down.shape[-2], dim=2)
        down, up = down.flatten(-3, -2), up.flatten(-3, -2)
        if down.dim() == 2:
            hidden = nn.functional.linear(x, down)
            return (hidden * channels.to(hidden.dtype)) @ up
        hidden = torch.bmm(x, down.transpose(1, 2))
        return torch.bmm(hidden * channels.to(hidden.dtype), up)

    def _update_by_factors(self, x: Tensor, weights: Tensor, down: Tensor, up: Tensor) -> Tensor:
        mean_down = _average(weights / self.scale, down)
        mean_up = _average(weights, up)
        return torch.bmm(torch.bmm(x, mean_down.transpose(1, 2)), mean_up)

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """One LoRA: of rank skills x r, or of rank r where the factors are mixed."""
        task = torch.tensor([task_id], device=self.up.device)
        weights, down, up = self._skills_of(task)
        if self.mixing == "factors":
            return self.scale * _average(weights, up)[0].T, _average(weights, down)[0]
        if down.dim() == 4:
            down, up = down[0], up[0]
        return self.scale * (weights[0][:, None, None] * up).flatten(0, 1).T, down.flatten(0, 1)


def _average(weights: Tensor, factors: Tensor) -> Tensor:
    """Sum over skills, (rows, r, d), of shared or per-row factors."""
    if factors.dim() == 3:
        return torch.tensordot(weights, factors, dims=1)
    return torch.einsum("nk,nkrd->nrd", weights, factors)


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
