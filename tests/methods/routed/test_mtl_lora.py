"""MTL-LoRA against the equations of arXiv 2410.09437, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.methods.routed.mtl_lora import MtlLoraDelta
from peml.methods.routed.settings import MtlLoraSettings
from peml.models import TaskRouting
from tests.methods.routed.reference import D_IN, D_OUT, SCALE, agree, inputs, linear, moved, routing

TEMPERATURE = 0.7


def build(
    routed: TaskRouting,
    d_in: int = D_IN,
    *,
    diagonal: bool = False,
    random: bool = False,
    **changes: Any,
) -> MtlLoraDelta:
    options: dict[str, Any] = {
        "r": 3,
        "alpha": 3 * SCALE,
        "bases": 2,
        "temperature": TEMPERATURE,
        "transform": "diagonal" if diagonal else "full",
        "mixing_start": "random" if random else "even",
    }
    return MtlLoraDelta(linear(d_in), routed, MtlLoraSettings(**(options | changes)))


def slow(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
    """y = s B_t Lambda_t A x with B_t = sum_i softmax(w_t / tau)_i B_i."""
    hidden = p["down"] @ x
    transform = p["transform"][task]
    hidden = transform @ hidden if transform.dim() == 2 else transform * hidden
    exponentials = [torch.exp(w / TEMPERATURE) for w in p["mixing"][task]]
    y = torch.zeros(D_OUT, dtype=x.dtype)
    for base, exponential in zip(p["up"], exponentials, strict=True):
        y = y + exponential / sum(exponentials) * (base.T @ hidden)
    return SCALE * y


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(
    ("shape", "tasks"),
    [((4, 3), [2, 0, 2, 1]), ((4,), [2, 0, 2, 1]), ((8, 2), [2, 2, 0, 0, 2, 2, 1, 1])],
    ids=["sequences", "vectors", "beams"],
)
def test_it_is_the_papers_equation(
    shape: tuple[int, ...], tasks: list[int], diagonal: bool
) -> None:
    delta = moved(build(routing(), diagonal=diagonal))
    agree(delta, slow, inputs(*shape), tasks)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_tasks_factors_are_its_update(diagonal: bool) -> None:
    delta = moved(build(routing(), diagonal=diagonal))
    x = inputs(4)
    for task in range(3):
        delta.routing.set(torch.full((4,), task))
        up, down = delta.factors(task)
        assert (up.shape, down.shape) == ((D_OUT, 3), (3, D_IN))
        torch.testing.assert_close(x @ (up @ down).T, delta(x))


@pytest.mark.parametrize("random", [False, True])
def test_it_starts_as_the_paper_says(random: bool) -> None:
    torch.manual_seed(0)
    delta = build(TaskRouting(1000), d_in=400, r=8, bases=3, temperature=0.1, random=random)
    assert delta.down.abs().max() <= 400**-0.5
    assert delta.down.std().item() == pytest.approx((3 * 400) ** -0.5, rel=0.05)
    assert torch.equal(delta.transform, torch.eye(8).expand(1000, 8, 8))
    assert not delta.up.any()
    shares = delta.shares()
    entropy = (-(shares * shares.log()).sum(1) / math.log(3)).mean().item()
    if random:  # at a temperature of 0.1 nearly a hard choice
        assert delta.mixing.abs().max() <= 3**-0.5
        assert shares.max(1).values.mean().item() == pytest.approx(0.84, abs=0.02)
        assert entropy == pytest.approx(0.35, abs=0.03)
    else:
        assert entropy == pytest.approx(0.97, abs=0.01)


def test_a_diagonal_transform_starts_at_one() -> None:
    assert torch.equal(build(routing(), diagonal=True).transform, torch.ones(3, 3))


@pytest.mark.parametrize("random", [False, True])
def test_its_bases_do_not_stay_copies_of_one_another(random: bool) -> None:
    """All B start at zero: mixed exactly alike, they would get the same gradient for good."""
    delta = build(routing(), temperature=0.1, random=random)
    delta(torch.randn(4, 3, D_IN)).sum().backward()
    gradient = delta.up.grad
    assert gradient is not None
    assert (gradient[0] - gradient[1]).abs().max() > 0.02 * gradient.abs().max()
