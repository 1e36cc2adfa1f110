"""Mixtures of LoRA experts against their equations: task gate (2310.18339), token router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peml.methods.routed.moe_lora import TaskGate, TaskMoeDelta, TokenMoeDelta
from peml.methods.routed.settings import MoeLoraSettings
from peml.models import TaskRouting
from tests.methods.routed.reference import (
    D_IN,
    D_OUT,
    SCALE,
    TASKS,
    agree,
    inputs,
    linear,
    moved,
    routing,
)

EXPERTS, RANK = 3, 6


def sized(**options: Any) -> MoeLoraSettings:
    return MoeLoraSettings(r=RANK, alpha=RANK * SCALE, experts=EXPERTS, **options)


def task_routed(d_in: int = D_IN) -> TaskMoeDelta:
    return TaskMoeDelta(linear(d_in), routing(), sized(embedding=4))


def token_routed(routed: TaskRouting, top_k: int = 2, d_in: int = D_IN) -> TokenMoeDelta:
    return TokenMoeDelta(linear(d_in), routed, sized(routing="token", top_k=top_k, balance=1))


def mixed(p: Mapping[str, Tensor], x: Tensor, weights: list[Any]) -> Tensor:
    """s sum_i w_i B_i A_i x."""
    y = torch.zeros(D_OUT, dtype=x.dtype)
    for down, up, weight in zip(p["down"], p["up"], weights, strict=True):
        y = y + weight * (up.T @ (down @ x))
    return SCALE * y


def by_task(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
    scores = [torch.exp(w @ p["gate.embedding"][task]) for w in p["gate.gate"]]
    return mixed(p, x, [score / sum(scores) for score in scores])


def chosen(p: Mapping[str, Tensor], x: Tensor, top_k: int) -> tuple[list[Tensor], list[int]]:
    """The router's probabilities of one token, and the experts it takes."""
    scores = [torch.exp(w @ x) for w in p["router"]]
    shares = [score / sum(scores) for score in scores]
    return shares, sorted(range(EXPERTS), key=lambda i: -shares[i].item())[:top_k]


@pytest.mark.parametrize(
    ("shape", "tasks"),
    [((4, 3), [2, 0, 2, 1]), ((4,), [2, 0, 2, 1]), ((8, 2), [2, 2, 0, 0, 2, 2, 1, 1])],
    ids=["sequences", "vectors", "beams"],
)
def test_a_task_gate_weighs_the_experts(shape: tuple[int, ...], tasks: list[int]) -> None:
    agree(moved(task_routed()), by_task, inputs(*shape), tasks)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4, 3), (4,), (8, 2)])
def test_a_router_weighs_the_best_experts_of_a_token(shape: tuple[int, ...], top_k: int) -> None:
    def by_token(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
        shares, taken = chosen(p, x, top_k)
        total = sum(shares[i] for i in taken)
        zero = 0 * shares[0]
        return mixed(p, x, [shares[i] / total if i in taken else zero for i in range(EXPERTS)])

    delta = moved(token_routed(routing(), top_k))
    # A single expert weighs 1: only the balance loss teaches the router then.
    silent = "router" if top_k == 1 else ""
    agree(delta, by_token, inputs(*shape), [0] * shape[0], silent=silent)


@settings(max_examples=25, deadline=None)
@given(
    top_k=st.integers(1, EXPERTS),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    masked=st.booleans(),
)
def test_the_balance_loss_counts_real_tokens(top_k: int, lengths: list[int], masked: bool) -> None:
    """E sum_i f_i P_i: share of the choices times mean probability, padding left out."""
    mask = torch.tensor([[float(i < n) for i in range(4)] for n in lengths])
    routed = TaskRouting(TASKS)
    ids = torch.zeros(len(lengths), dtype=torch.long)
    routed.set(ids, inputs=mask if masked else None)
    delta = moved(token_routed(routed, top_k)).train()
    x = inputs(len(lengths), 4)
    delta(x)
    loss = delta.auxiliary_loss()
    assert loss is not None
    p = dict(delta.named_parameters())
    real = [
        chosen(p, x[row, place], top_k)
        for row, length in enumerate(lengths)
        for place in range(length if masked else 4)
    ]
    expected = torch.zeros((), dtype=torch.float64)
    for expert in range(EXPERTS):
        taken = sum(expert in best for _, best in real) / (len(real) * top_k)
        expected = expected + EXPERTS * taken * sum(s[expert] for s, _ in real) / len(real)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    (ours,) = torch.autograd.grad(loss, p["router"])
    (theirs,) = torch.autograd.grad(expected, p["router"])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_an_even_load_costs_one_and_a_collapsed_one_costs_more() -> None:
    delta = token_routed(routing((0,)), top_k=1).double().train()
    with torch.no_grad():
        delta.router.zero_()
        delta.router[:, :EXPERTS] = 40 * torch.eye(EXPERTS)
    even = torch.eye(D_IN)[:EXPERTS][None].double()
    delta(even)
    loss = delta.auxiliary_loss()
    assert loss is not None
    assert loss.item() == pytest.approx(1)
    delta(even[:, :1])
    loss = delta.auxiliary_loss()
    assert loss is not None
    assert loss.item() == pytest.approx(EXPERTS)


def test_there_is_no_balance_loss_in_evaluation() -> None:
    delta = token_routed(routing()).eval()
    delta(torch.randn(4, 3, D_IN))
    assert delta.auxiliary_loss() is None


def test_a_tasks_factors_are_its_update_and_a_router_has_none() -> None:
    delta, x = moved(task_routed()), inputs(4)
    for task in range(TASKS):
        delta.routing.set(torch.full((4,), task))
        up, down = delta.factors(task)
        assert (up.shape, down.shape) == ((D_OUT, RANK), (RANK, D_IN))
        torch.testing.assert_close(x @ (up @ down).T, delta(x), atol=1e-6, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="no LoRA of any rank"):
        token_routed(routing()).factors(0)


def test_they_start_as_the_papers_say() -> None:
    torch.manual_seed(0)
    for delta in (task_routed(400), token_routed(routing(), d_in=400)):
        assert delta.down.shape == (EXPERTS, RANK // EXPERTS, 400)
        assert delta.down.std().item() == pytest.approx(0.01, rel=0.1)
        assert not delta.up.any()
    router = token_routed(routing(), d_in=400).router
    assert router.std().item() == pytest.approx(0.02, rel=0.1)
    weights = TaskGate(200, MoeLoraSettings(experts=4, embedding=64))()
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert 0.2 < weights.max(1).values.mean() < 0.5, "no task is bound to one expert at the start"
