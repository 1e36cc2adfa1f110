"""C-Poly (arXiv 2312.03248) and Poly (2202.13914) against their equations; noise and start."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from peml.methods.routed.c_poly import CPolyDelta
from peml.methods.routed.settings import CPolySettings
from peml.models import TaskRouting
from tests.methods.routed.reference import (
    D_IN,
    D_OUT,
    SCALE,
    TASKS,
    Reference,
    agree,
    inputs,
    linear,
    moved,
    routing,
)

SHARED = 2


def build(routed: TaskRouting, **changes: Any) -> CPolyDelta:
    options: dict[str, Any] = {
        "r": 2,
        "alpha": 2 * SCALE,
        "shared": SHARED,
        "own": 1,
        "mixing": "outputs",
        "own_matrix": "full",
        "normalised": True,
        "noise": False,
    }
    return CPolyDelta(linear(), routed, CPolySettings(**(options | changes)))


def weights_of(delta: CPolyDelta, p: Mapping[str, Tensor], task: int, noise: Tensor) -> list[Any]:
    """What a task takes of every skill of the layer."""
    raw = [torch.sigmoid(z + e) for z, e in zip(p["skill_logits"][task], noise[task], strict=True)]
    total = sum(raw) + 1e-12 if delta.settings.normalised else 1.0
    weights: list[Any] = [w / total for w in raw]
    for owner, number in product(range(TASKS), range(delta.settings.own)):
        if delta.settings.own_matrix == "full":
            weights.append(p["own_weights"][task, owner * delta.settings.own + number])
        else:
            weights.append(p["own_weights"][task, number] if owner == task else 0.0)
    return weights


def reference(delta: CPolyDelta, noise: Tensor | None = None) -> Reference:
    drawn = torch.zeros(TASKS, delta.settings.shared).double() if noise is None else noise

    def by_outputs(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
        y = torch.zeros(D_OUT, dtype=x.dtype)
        for skill, weight in enumerate(weights_of(delta, p, task, drawn)):
            y = y + weight * (p["up"][skill].T @ (p["down"][skill] @ x))
        return SCALE * y

    def by_factors(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
        weights = weights_of(delta, p, task, drawn)
        down = sum(w * a for w, a in zip(weights, p["down"], strict=True))
        up = sum(w * b.T for w, b in zip(weights, p["up"], strict=True))
        result: Tensor = SCALE * (up @ (down @ x))
        return result

    return by_outputs if delta.settings.mixing == "outputs" else by_factors


@pytest.mark.parametrize(
    ("mixing", "own_matrix", "own"),
    [
        *product(["outputs", "factors"], ["full", "diagonal"], [1, 2]),
        ("factors", "full", 0),
        ("outputs", "diagonal", 0),
    ],
)
@pytest.mark.parametrize(
    ("shape", "tasks"),
    [((4, 3), [2, 0, 2, 1]), ((4,), [2, 0, 2, 1]), ((8, 2), [2, 2, 0, 0, 2, 2, 1, 1])],
    ids=["sequences", "vectors", "beams"],
)
def test_it_is_the_papers_equation(
    shape: tuple[int, ...], tasks: list[int], mixing: str, own_matrix: str, own: int
) -> None:
    delta = moved(build(routing(), mixing=mixing, own_matrix=own_matrix, own=own))
    agree(delta, reference(delta), inputs(*shape), tasks)


@pytest.mark.parametrize(
    ("mixing", "normalised"), list(product(["outputs", "factors"], [True, False]))
)
def test_it_is_the_papers_equation_with_the_noise_of_training(
    mixing: str, normalised: bool
) -> None:
    delta = moved(build(routing(), mixing=mixing, normalised=normalised, noise=True)).train()
    torch.manual_seed(5)
    drawn = torch.rand(TASKS, SHARED, dtype=torch.float64)
    torch.manual_seed(5)
    # agree() calls the delta once, so that it sees this draw.
    agree(delta, reference(delta, torch.log(drawn / (1 - drawn))), inputs(4, 3), [2, 0, 2, 1])


@pytest.mark.parametrize("normalised", [True, False])
def test_there_is_noise_in_training_only(normalised: bool) -> None:
    delta = build(routing(), noise=True, normalised=normalised)
    assert torch.equal(delta.eval().shared_weights(), delta.shared_weights())
    assert not torch.equal(delta.train().shared_weights(), delta.shared_weights())
    still = build(routing(), normalised=normalised).train()
    assert torch.equal(still.shared_weights(), still.shared_weights())


def test_the_noise_is_a_relaxed_bernoulli_at_temperature_one() -> None:
    """Near a logit of zero that is uniform; its share of four has deviation 0.14."""
    torch.manual_seed(0)
    delta = build(TaskRouting(5000), shared=4, own=0, noise=True, normalised=False).train()
    raw = delta.shared_weights().detach()
    assert kstest(raw.flatten().numpy(), "uniform").pvalue > 0.01
    delta.settings = delta.settings.model_copy(update={"normalised": True})
    shares = delta.shared_weights()
    torch.testing.assert_close(shares.sum(1), torch.ones(5000))
    assert shares.std().item() == pytest.approx(0.14, abs=0.01)
    with torch.no_grad():
        delta.skill_logits.fill_(1.5)
    delta.settings = delta.settings.model_copy(update={"normalised": False})
    drawn = delta.shared_weights().detach().flatten()
    # P(sigmoid(z + logit(u)) > 1/2) = sigmoid(z).
    assert (drawn > 0.5).float().mean().item() == pytest.approx(0.8176, abs=0.02)


@pytest.mark.parametrize(
    ("mixing", "own_matrix", "rank"),
    [
        ("outputs", "full", 10),
        ("outputs", "diagonal", 6),
        ("factors", "full", 2),
        ("factors", "diagonal", 2),
    ],
)
def test_a_tasks_factors_are_its_update(mixing: str, own_matrix: str, rank: int) -> None:
    delta = moved(build(routing(), mixing=mixing, own_matrix=own_matrix)).eval()
    x = inputs(4)
    for task in range(TASKS):
        delta.routing.set(torch.full((4,), task))
        up, down = delta.factors(task)
        assert (up.shape, down.shape) == ((D_OUT, rank), (rank, D_IN))
        torch.testing.assert_close(x @ (up @ down).T, delta(x))


def test_it_starts_as_the_papers_say() -> None:
    delta = build(TaskRouting(TASKS), own=2, noise=True)
    assert delta.down.abs().max() <= D_IN**-0.5
    assert not delta.up.any()
    assert 0 < delta.skill_logits.abs().max() <= 1e-3
    for task, row in enumerate(delta.own_weights):
        mine = [float(task * 2 <= skill < task * 2 + 2) for skill in range(2 * TASKS)]
        assert row.tolist() == mine
    diagonal = build(TaskRouting(TASKS), own=2, own_matrix="diagonal")
    assert torch.equal(diagonal.own_weights, torch.ones(TASKS, 2))
