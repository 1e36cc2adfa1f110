"""Comparing a delta with a slow reference that goes row by row, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from peml.methods.layers import LinearShape
from peml.methods.routed.delta import Delta
from peml.models import TaskRouting

D_IN, D_OUT, TASKS, SCALE = 5, 7, 3, 1.7

Reference = Callable[[Mapping[str, Tensor], Tensor, int], Tensor]
"""(parameters by name, one token's (d_in,), its task) -> the update, (d_out,)."""


def linear(d_in: int = D_IN) -> LinearShape:
    return LinearShape("layer", d_in, D_OUT)


def routing(ids: Sequence[int] = (2, 0, 2, 1)) -> TaskRouting:
    made = TaskRouting(TASKS)
    made.set(torch.tensor(ids))
    return made


def moved(delta: Delta) -> Any:
    """In float64, every parameter away from its start."""
    noise = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in delta.double().parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=noise).double())
    return delta


def inputs(*shape: int) -> Tensor:
    noise = torch.Generator().manual_seed(len(shape) + shape[0])
    return torch.randn(*shape, D_IN, generator=noise, dtype=torch.float64).requires_grad_()


def agree(
    delta: Delta, reference: Reference, x: Tensor, tasks: Sequence[int], *, silent: str = ""
) -> None:
    """Outputs and the gradients of x and of every parameter, to 1e-6.

    Args:
        delta: With its routing set.
        reference: What it should compute.
        x: (rows, ..., d_in).
        tasks: Task of each row.
        silent: A parameter that has no gradient.
    """
    named = dict(delta.named_parameters())
    rows = []
    for row, task in zip(x, tasks, strict=True):
        tokens = [reference(named, token, task) for token in row.reshape(-1, D_IN)]
        rows.append(torch.stack(tokens).reshape(*row.shape[:-1], D_OUT))
    slow = torch.stack(rows)
    fast = delta(x)
    assert fast.dtype == torch.float64
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-6)
    weights = torch.randn(slow.shape, generator=torch.Generator().manual_seed(3)).double()
    wanted = [x, *named.values()]

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y * weights).sum(), wanted, materialize_grads=True)

    for name, ours, theirs in zip(["x", *named], gradients(fast), gradients(slow), strict=True):
        torch.testing.assert_close({name: ours}, {name: theirs}, atol=1e-6, rtol=1e-6)
        if theirs.numel():
            assert bool(theirs.abs().max() > 1e-9) != (name == silent), name
