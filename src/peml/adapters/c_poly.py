"""C-Poly: skills shared by all tasks and skills of one's own (Wang et al., arXiv 2312.03248)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from peml.adapters.delta import Delta, low_rank_start
from peml.adapters.routing import TaskRouting

__all__ = ["CPolyDelta"]


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
