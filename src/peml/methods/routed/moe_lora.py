"""Mixtures of LoRA experts: gated by the task (arXiv 2310.18339), or by each token."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.methods.base import Merging, MethodSettings
from peml.methods.layers import LinearShape
from peml.methods.routed.delta import Delta, low_rank_start
from peml.methods.routed.part import AdapterMethod
from peml.methods.routed.settings import MoeLoraSettings
from peml.models import TaskRouting


class TaskGate(nn.Module):
    """Weights of the experts for each task: ``softmax(W e_t)``, e_t a learnt embedding."""

    def __init__(self, tasks: int, settings: MoeLoraSettings) -> None:
        super().__init__()
        experts, width = settings.experts, settings.embedding
        self.embedding = nn.Parameter(torch.randn(tasks, width))
        self.gate = low_rank_start((experts, width), width)

    def forward(self) -> Tensor:
        """(tasks, experts), rows sum to 1."""
        logits = nn.functional.linear(self.embedding, self.gate)
        return logits.to(self.gate.dtype).softmax(-1)  # autocast may have rounded them


class _MoeDelta(Delta):
    """Experts of rank r / experts side by side: A (experts, r / experts, d_in), B likewise."""

    settings: MoeLoraSettings

    def __init__(self, layer: LinearShape, routing: TaskRouting, settings: MoeLoraSettings) -> None:
        super().__init__(layer, routing, settings)
        experts, rank = settings.experts, settings.r // settings.experts
        self.down = nn.Parameter(torch.randn(experts, rank, layer.d_in) * 0.01)
        self.up = nn.Parameter(torch.zeros(experts, rank, layer.d_out))

    def _mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        """``s * sum_i weights_i B_i A_i x``; weights are (rows, 1 or length, experts)."""
        hidden = nn.functional.linear(x, self.down.flatten(0, 1))
        channels = (self.scale * weights).repeat_interleave(self.down.shape[1], dim=-1)
        return (hidden * channels.to(hidden.dtype)) @ self.up.flatten(0, 1)


class TaskMoeDelta(_MoeDelta):
    """``y = s * sum_i g(t)_i B_i A_i x`` with a gate that sees the task only.

    All layers share ``gate``; None: each has its own.
    """

    fast: ClassVar[Mapping[str, str]] = {"gate.embedding": "routing", "gate.gate": "routing"}

    def __init__(
        self,
        layer: LinearShape,
        routing: TaskRouting,
        settings: MoeLoraSettings,
        gate: TaskGate | None = None,
    ) -> None:
        gate = gate or TaskGate(routing.tasks, settings)
        super().__init__(layer, routing, settings)
        self.gate = gate

    def update(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate()
        return self._mixed(x, weights[self.routing.rows(x.shape[0])][:, None, :])

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """A LoRA of rank r: the experts' B with their weights, and their A."""
        weights = self.gate()[task_id][:, None, None]
        return self.scale * (weights * self.up).flatten(0, 1).T, self.down.flatten(0, 1)


class TokenMoeDelta(_MoeDelta):
    """``y = s * sum_i g(x)_i B_i A_i x`` with a router per token that uses the top k experts.

    All experts are computed, and those outside the top k have weight zero: they are so small that
    two dense products are cheaper than sorting tokens to experts.

    While training, `auxiliary_loss` is the load-balancing loss of Switch Transformers (Fedus et
    al., 2101.03961, eq. 4) over the real tokens, 1 where the load is even, times ``balance``.
    """

    fast: ClassVar[Mapping[str, str]] = {"router": "routing"}

    def __init__(self, layer: LinearShape, routing: TaskRouting, settings: MoeLoraSettings) -> None:
        super().__init__(layer, routing, settings)
        self.router = nn.Parameter(torch.randn(settings.experts, layer.d_in) * 0.02)
        self._balance: Tensor | None = None

    def update(self, x: Tensor) -> Tensor:
        # In float32, so that rounding to bf16 does not choose the experts.
        with torch.autocast(x.device.type, enabled=False):
            logits = nn.functional.linear(x.to(self.router.dtype), self.router)
            shares = logits.softmax(-1)
        best = shares.topk(self.settings.top_k, dim=-1)
        used = torch.zeros_like(shares).scatter(-1, best.indices, 1.0)
        kept = shares * used
        if self.training:
            self._balance = self._load(shares, used)
        return self._mixed(x, kept / kept.sum(-1, keepdim=True))

    def _load(self, shares: Tensor, used: Tensor) -> Tensor:
        mask = self.routing.mask(self.layer.side, *shares.shape[:2])
        if mask is None:
            mask = shares.new_ones(shares.shape[:2])
        weights = mask.to(shares.dtype) / mask.sum()
        tokens = torch.tensordot(weights, used, dims=2) / self.settings.top_k
        probability = torch.tensordot(weights, shares, dims=2)
        load: Tensor = self.settings.balance * self.settings.experts * (tokens * probability).sum()
        return load

    def auxiliary_loss(self) -> Tensor | None:
        return self._balance

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """Raises an error, since the update depends on the token."""
        raise NotImplementedError("a token-routed mixture is no LoRA of any rank")


class MoeLora(AdapterMethod):
    """A mixture of LoRA experts on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MoeLoraSettings
    settings: MoeLoraSettings

    def build_deltas(
        self, layers: tuple[LinearShape, ...], routing: TaskRouting
    ) -> dict[str, Delta]:
        settings = self.settings
        if settings.routing == "token":
            return {layer.name: TokenMoeDelta(layer, routing, settings) for layer in layers}
        gate = TaskGate(routing.tasks, settings) if settings.gate == "shared" else None
        return {layer.name: TaskMoeDelta(layer, routing, settings, gate) for layer in layers}

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
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
        """The number of experts, since all have the same rank."""
        return self.settings.experts

    @property
    def merging(self) -> Merging:
        if self.settings.routing == "token":
            return Merging("never", "the experts' weights depend on the token")
        return Merging("per task", "each task has its own weights of the experts")
