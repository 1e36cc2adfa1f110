"""MTL-LoRA: shared factors, re-mixed for each task (Yang et al., arXiv 2410.09437)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from peml.methods.base import Merging, MethodSettings
from peml.methods.layers import LinearShape
from peml.methods.routed.delta import Delta, low_rank_start
from peml.methods.routed.part import AdapterMethod
from peml.methods.routed.settings import MtlLoraSettings
from peml.models import TaskRouting


class MtlLoraDelta(Delta):
    """``y = s * B_t Lambda_t A x`` with ``B_t = sum_i softmax(w_t / temperature)_i B_i``.

    A and the B_i are shared by all tasks; Lambda_t and w_t are per task. The update has rank r.

    ::

        x (d_in) -> A -> h (r) -> Lambda_t -> (r) -> p_t1 B_1 + ... + p_tn B_n -> (d_out)

    ``mixing_start: random``: w starts uniform within 1 / sqrt(n), as in the published code, where a
    low temperature makes nearly every task pick one B at random; ``even``: w / temperature does,
    which is a nearly even mix at any temperature.
    """

    fast: ClassVar[Mapping[str, str]] = {"mixing": "routing"}
    settings: MtlLoraSettings

    def __init__(self, layer: LinearShape, routing: TaskRouting, settings: MtlLoraSettings) -> None:
        super().__init__(layer, routing, settings)
        r, bases = settings.r, settings.bases
        self.diagonal = settings.transform == "diagonal"
        start = torch.ones(r) if self.diagonal else torch.eye(r)
        self.down = low_rank_start((r, layer.d_in), layer.d_in)
        self.transform = nn.Parameter(start.expand(routing.tasks, *start.shape).clone())
        self.up = nn.Parameter(torch.zeros(bases, r, layer.d_out))
        self.mixing = low_rank_start((routing.tasks, bases), bases)
        if settings.mixing_start == "even":
            # Not exactly even: B matrices that start alike and are mixed alike get the same
            # gradient, and would stay copies of one another.
            self.mixing.data.mul_(settings.temperature)

    def shares(self) -> Tensor:
        """Each task's shares of the B matrices, (tasks, bases)."""
        return (self.mixing / self.settings.temperature).softmax(-1)

    def update(self, x: Tensor) -> Tensor:
        rows = self.routing.rows(x.shape[0])
        hidden = nn.functional.linear(x, self.down)
        shares = self.scale * self.shares()[rows][:, :, None]
        if self.diagonal:
            mixed = shares * self.transform[rows][:, None, :]
            wide = hidden[:, :, None, :] * mixed[:, None, :, :].to(hidden.dtype)
            return wide.flatten(2) @ self.up.flatten(0, 1)
        # (rows, bases * r, r): the transform of the row's task, once for each B.
        mixed = (shares[..., None] * self.transform[rows][:, None]).flatten(1, 2)
        return torch.bmm(hidden, mixed.transpose(1, 2)) @ self.up.flatten(0, 1)

    def factors(self, task_id: int) -> tuple[Tensor, Tensor]:
        """A LoRA of rank r: B_t and Lambda_t A."""
        up = torch.tensordot(self.shares()[task_id], self.up, dims=1)
        transform = self.transform[task_id]
        down = transform[:, None] * self.down if self.diagonal else transform @ self.down
        return self.scale * up.T, down


class MtlLora(AdapterMethod):
    """MTL-LoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = MtlLoraSettings
    delta_type: ClassVar[type[Delta]] = MtlLoraDelta
    settings: MtlLoraSettings

    def count_at(self, r: int, layers: tuple[LinearShape, ...], tasks: int) -> dict[str, int]:
        bases = self.settings.bases
        transform = tasks * (r * r if self.settings.transform == "full" else r)
        factors = sum(r * layer.d_in + transform + bases * r * layer.d_out for layer in layers)
        return {"adapter": factors, "routing": len(layers) * tasks * bases}

    @property
    def merging(self) -> Merging:
        return Merging("per task", "each task has its own transform and mix")
