"""C-Poly: skills that all tasks share and skills per task (Wang et al., arXiv 2312.03248)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.methods.base import Merging, MethodSettings
from peml.methods.layers import LinearShape
from peml.methods.routed.delta import Delta, low_rank_start
from peml.methods.routed.part import AdapterMethod
from peml.methods.routed.settings import CPolySettings
from peml.models import TaskRouting


class CPolyDelta(Delta):
    """``y = s * (sum_i w_ti B_i A_i x + sum_j v_tj B_j A_j x)`` over shared and own skills.

    w comes from logits (tasks, shared) through a relaxed Bernoulli draw while training and a
    sigmoid otherwise; v starts as each task's own skills at 1 and all others at 0.

    With ``mixing: factors`` the factors are averaged instead, as Polytropon does (arXiv
    2202.13914): ``A_t = sum_k w_tk A_k``, ``B_t = sum_k w_tk B_k``, ``y = s * B_t A_t x``.
    Without own skills that is Polytropon itself.
    """

    fast: ClassVar[Mapping[str, str]] = {"skill_logits": "routing", "own_weights": "routing"}
    settings: CPolySettings

    def __init__(self, layer: LinearShape, routing: TaskRouting, settings: CPolySettings) -> None:
        super().__init__(layer, routing, settings)
        tasks, own, r = routing.tasks, settings.own, settings.r
        skills = settings.shared + tasks * own
        self.down = low_rank_start((skills, r, layer.d_in), layer.d_in)
        self.up = nn.Parameter(torch.zeros(skills, r, layer.d_out))
        self.skill_logits = nn.Parameter(torch.empty(tasks, settings.shared).uniform_(-1e-3, 1e-3))
        identity = torch.eye(tasks).repeat_interleave(own, dim=1)
        self.own_weights = nn.Parameter(
            identity if settings.own_matrix == "full" else torch.ones(tasks, own)
        )

    def shared_weights(self) -> Tensor:
        """Each task's weights of the shared skills, (tasks, shared)."""
        logits: Tensor = self.skill_logits
        if self.training and self.settings.noise:
            draw = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits + draw.logit()  # a relaxed Bernoulli at temperature 1
        weights = logits.sigmoid()
        if self.settings.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-12)
        return weights

    def _skills_of(self, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (rows, skills) and the skills' factors.

        The factors are (skills, r, d) if all rows share them, else (rows, skills, r, d).
        """
        weights = torch.cat([self.shared_weights(), self.own_weights], dim=1)[tasks]
        shared, own = self.settings.shared, self.settings.own
        if self.settings.own_matrix == "full" or not own:
            return weights, self.down, self.up
        mine = torch.arange(own, device=tasks.device) + tasks[:, None] * own
        common = torch.arange(shared, device=tasks.device).expand(len(tasks), -1)
        index = torch.cat([common, shared + mine], dim=1)
        return weights, self.down[index], self.up[index]

    def update(self, x: Tensor) -> Tensor:
        weights, down, up = self._skills_of(self.routing.rows(x.shape[0]))
        weights = self.scale * weights
        if self.settings.mixing == "factors":
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
        """The update as one LoRA: of rank skills x r, or of rank r if the factors are mixed."""
        task = torch.tensor([task_id], device=self.up.device)
        weights, down, up = self._skills_of(task)
        if self.settings.mixing == "factors":
            return self.scale * _average(weights, up)[0].T, _average(weights, down)[0]
        if down.dim() == 4:
            down, up = down[0], up[0]
        return self.scale * (weights[0][:, None, None] * up).flatten(0, 1).T, down.flatten(0, 1)


def _average(weights: Tensor, factors: Tensor) -> Tensor:
    """Sum over skills, (rows, r, d), of shared or per-row factors."""
    if factors.dim() == 3:
        shared: Tensor = torch.tensordot(weights, factors, dims=1)
        return shared
    return torch.einsum("nk,nkrd->nrd", weights, factors)


class CPoly(AdapterMethod):
    """C-Poly on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = CPolySettings
    delta_type: ClassVar[type[Delta]] = CPolyDelta
    settings: CPolySettings

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
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
        return Merging("per task", "each task weighs the skills in its own way")
