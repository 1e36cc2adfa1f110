"""Discretisation rules and guards: what they choose, and when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peml.prefix import SKIP, PrefixSettings, PrefixShape, PrefixStart, PrefixSupernet
from peml.search import SearchController, SearchSettings, Timetable
from peml.search.penalties import beta_decay, entropy

SHAPE = PrefixShape(layers=3, kv_heads=1, head_dim=4)
OPERATIONS = ("linear", "conv", "mlp-gelu", SKIP)


def make_supernet(**options: object) -> PrefixSupernet:
    values: dict[str, Any] = {"length": (2, 4), "width": 4, "cells": 3, "operations": OPERATIONS}
    chosen = PrefixSettings.model_validate(values | options)
    torch.manual_seed(0)
    return PrefixSupernet(chosen.space(SHAPE), SHAPE, PrefixStart.zeros(SHAPE))


def controller(supernet: PrefixSupernet, steps: int = 40, **options: object) -> SearchController:
    return SearchController(supernet, SearchSettings.model_validate(options), steps, seed=0)


def set_logits(supernet: PrefixSupernet, **logits: list[float]) -> None:
    with torch.no_grad():
        for name, values in logits.items():
            supernet.decisions[name.replace("_", ".")].logits.copy_(torch.tensor(values))


class Costs:
    """A held-out loss that is linear in the decisions' weights; counts its calls."""

    def __init__(self, supernet: PrefixSupernet, **costs: Mapping[str, float]) -> None:
        self.supernet = supernet
        self.costs = {name.replace("_", "."): values for name, values in costs.items()}
        self.calls = 0

    def __call__(self, weights: Mapping[str, Tensor]) -> float:
        self.calls += 1
        return sum(
            float(weight) * self.costs.get(name, {}).get(option, 0.0)
            for name, decision in self.supernet.decisions.items()
            for option, weight in zip(decision.options, weights[name], strict=True)
        )


# Perturbation


def test_perturbation_takes_the_operation_whose_removal_hurts_not_the_largest_logit() -> None:
    """In a real supernet, whose only operation that does anything is the convolution."""
    supernet = make_supernet(cells=1, length=4, layer_gates=False)
    cells: Any = supernet.cells
    with torch.no_grad():
        for parameter in cells[0].operations["conv"].parameters():
            parameter.copy_(torch.randn_like(parameter))
        for parameter in supernet.heads.parameters():
            parameter.copy_(torch.randn_like(parameter))
        target = supernet(supernet.one_hot({"cell.0": "conv"})).tensor
    set_logits(supernet, cell_0=[1.0, 0.0, 0.5, 2.0])  # skip leads, the convolution is last

    def measure(weights: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            return float((supernet(weights).tensor - target).square().mean())

    searched = controller(supernet, discretise="perturbation", temperature={"end": 1.0})
    chosen = searched.conclude(measure)
    assert chosen.choices["cell.0"] == "conv"
    assert chosen.guarded == ()
    scores = searched.memory.scores["cell.0"]
    assert max(scores, key=scores.__getitem__) == "conv"
    assert scores["conv"] > 0
    without_guard = controller(supernet, max_skips=1).choices()
    assert without_guard.choices["cell.0"] == SKIP  # what arg max takes


def test_perturbation_decides_one_after_another_over_the_cooldown() -> None:
    supernet = make_supernet()
    searched = controller(supernet, discretise="perturbation", cooldown=0.5, warmup=0.2)
    measure = Costs(supernet, cell_0={"conv": -1.0}, layer_1={"on": 1.0})
    made = []
    for step in range(40):
        searched.advance(step, measure)
        made.append(len(searched.memory.decided))
        weights = searched.evaluation_weights(step)
        for name, option in searched.memory.decided.items():  # decided is decided, at once
            assert weights[name][supernet.decisions[name].options.index(option)] == 1
    assert made[:20] == [0] * 20
    assert made[39] == len(supernet.decisions) == 7
    assert made == sorted(made)
    assert max(later - earlier for earlier, later in itertools.pairwise(made)) == 1
    options = 3 * 4 + 2 + 3 * 2
    assert measure.calls == options + 7  # each removal once, and the whole once a decision
    assert searched.memory.decided["cell.0"] == "conv"
    assert searched.memory.decided["layer.1"] == "off"
    assert searched.conclude().choices == searched.memory.decided


def test_perturbation_heeds_the_guards() -> None:
    supernet = make_supernet()
    costs: dict[str, Any] = {f"cell_{cell}": {SKIP: -1.0, "conv": -0.5} for cell in range(3)}
    costs |= {f"layer_{layer}": {"off": -1.0} for layer in range(3)}
    searched = controller(supernet, discretise="perturbation", max_skips=1)
    chosen = searched.conclude(Costs(supernet, **costs))
    cells = [chosen.choices[f"cell.{cell}"] for cell in range(3)]
    assert sorted(cells) == ["conv", "conv", SKIP]
    layers = [chosen.choices[f"layer.{layer}"] for layer in range(3)]
    assert sorted(layers) == ["off", "off", "on"]
    changed = {name for name, option in chosen.choices.items() if option in ("conv", "on")}
    assert set(chosen.guarded) == changed
    supernet.space.complete(chosen.choices)


def test_perturbation_without_a_loss_says_what_it_needs() -> None:
    searched = controller(make_supernet(), discretise="perturbation")
    with pytest.raises(ValueError, match="pass measure"):
        searched.conclude()


@pytest.mark.parametrize("cooldown", [0.0, 0.5])
def test_options_are_scored_under_any_rule_before_the_mixture_is_led(cooldown: float) -> None:
    supernet = make_supernet()
    costs: dict[str, Any] = {"cell_0": {"conv": -1.0}, "layer_1": {"on": 1.0}}
    scores = []
    for rule, cool in (("argmax", cooldown), ("perturbation", 0.0)):
        searched = controller(supernet, discretise=rule, cooldown=cool, score_options=True)
        for step in range(40):
            searched.advance(step, Costs(supernet, **costs))
        searched.conclude(Costs(supernet, **costs))
        scores.append(searched.memory.scores)
        assert ("conv" in searched.memory.decided.values()) == (rule == "perturbation")
    for name in ("cell.0", "layer.1", "cell.1"):  # decided ones differ in nothing but the order
        assert scores[0][name] == pytest.approx(scores[1][name], abs=1e-6)
    assert max(scores[0]["cell.0"], key=scores[0]["cell.0"].__getitem__) == "conv"


# Progressive pruning


def test_pruning_strikes_out_the_weakest_until_two_remain() -> None:
    supernet = make_supernet()
    searched = controller(supernet, discretise="pruning", warmup=0.25, cooldown=0.25)
    set_logits(supernet, cell_0=[3.0, -1.0, 1.0, 0.0], cell_1=[0.0, 0.0, 0.0, 0.0])
    lost = []
    for step in range(40):
        searched.advance(step)
        lost.append(len(searched.memory.struck_out.get("cell.0", [])))
        weights = searched.weights(step)
        left_out = [
            weights["cell.0"][OPERATIONS.index(o)]
            for o in searched.memory.struck_out.get("cell.0", [])
        ]
        assert not any(left_out)
        assert weights["cell.0"].sum().item() == pytest.approx(1)
    # 20 moving steps, three removals' worth of them, of which the last is left to the choice.
    assert [lost.index(count) for count in (0, 1, 2)] == [0, 17, 24]
    assert lost[-1] == 2
    assert searched.memory.struck_out["cell.0"] == ["conv", SKIP]
    assert searched.memory.struck_out["cell.1"] == [SKIP, "mlp-gelu"]  # the earlier of equals stay
    assert "layer.0" not in searched.memory.struck_out
    assert searched.choices().choices["cell.0"] == "linear"


def test_what_was_struck_out_gets_no_gradient_is_not_run_and_is_never_chosen() -> None:
    supernet = make_supernet(cells=1)
    searched = controller(supernet, discretise="pruning", relaxation="softmax")
    for step in range(25):
        searched.advance(step)
    lost = [OPERATIONS.index(option) for option in searched.memory.struck_out["cell.0"]]
    assert lost
    assert searched.is_sparse
    cells: Any = supernet.cells
    calls = []
    for name, operation in cells[0].operations.items():
        operation.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        for parameter in supernet.weight_parameters():
            parameter.add_(0.1)
    supernet(searched.weights(25), prune=searched.is_sparse).tensor.sum().backward()
    gradient = supernet.decisions["cell.0"].logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert not gradient[lost].any()
    assert gradient.any()
    assert set(calls) == set(OPERATIONS) - set(searched.memory.struck_out["cell.0"])
    with torch.no_grad():
        supernet.decisions["cell.0"].logits[lost] = 9.0
    assert searched.choices().choices["cell.0"] not in searched.memory.struck_out["cell.0"]


@settings(deadline=None)
@given(
    steps=st.integers(1, 60),
    warmup=st.floats(0, 0.6),
    cooldown=st.floats(0, 0.39),
    options=st.integers(2, 9),
    decisions=st.integers(1, 9),
)
def test_the_timetable_of_the_rules(
    steps: int, warmup: float, cooldown: float, options: int, decisions: int
) -> None:
    """Nothing is struck out in the warm-up, two options remain, every decision is made in time."""
    table = Timetable(SearchSettings(warmup=warmup, cooldown=cooldown), steps)
    removals = [table.removals(step, options) for step in range(steps)]
    assert removals == sorted(removals)
    assert removals[table.warmup_steps] == 0
    assert removals[-1] <= options - 2
    assert table.removals(steps, options) == max(0, options - 2)
    picks = [table.picks(step, decisions) for step in range(steps)]
    assert picks == sorted(picks)
    assert not any(picks[: table.cooldown_start])
    assert picks[-1] == (decisions if table.cooldown_steps else 0)


# Guards


def test_an_early_freeze_stops_the_logits_once_the_leaders_are_steady() -> None:
    supernet = make_supernet()
    searched = controller(supernet, freeze_after=0.1, warmup=0.25, cooldown=0.25)
    moving = []
    for step in range(40):
        if step in (12, 14):  # the leader changes twice
            set_logits(supernet, cell_1=[0.0, float(step), 0.0, float(step == 12) * 99])
        searched.advance(step)
        moving.append(searched.architecture_moves(step))
    # From step 14 on the leaders stand; four steps later they have been steady for long enough.
    assert moving == [10 <= step < 18 for step in range(40)]
    assert not any(row.requires_grad for row in searched.weights(20).values())


def test_skip_dropout_leaves_skip_out_ever_more_rarely() -> None:
    supernet = make_supernet()
    searched = controller(supernet, steps=400, skip_dropout=0.6, warmup=0.25, relaxation="softmax")

    def share(steps: range) -> float:
        rows = [searched.weights(step)[f"cell.{cell}"] for step in steps for cell in range(3)]
        assert all(row.sum().item() == pytest.approx(1) for row in rows)
        return sum(float(row[3] == 0) for row in rows) / len(rows)

    assert share(range(100)) == pytest.approx(0.6, abs=0.1)
    assert share(range(200, 240)) == pytest.approx(0.3, abs=0.12)
    assert share(range(340, 399)) == 0  # the last step is the chosen network
    assert all(row[3] > 0 for row in (searched.evaluation_weights(0)[f"cell.{c}"] for c in (0, 1)))
    logits = supernet.decisions["cell.0"].logits
    step = next(s for s in range(100, 200) if searched.weights(s)["cell.0"][3] == 0)
    (gradient,) = torch.autograd.grad(searched.weights(step)["cell.0"][0], logits)
    assert gradient[3] == 0
    assert gradient[0] > 0


def test_entropy_and_beta_decay_against_their_definitions() -> None:
    logits = [torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.5, 0.5])]
    shares = [torch.softmax(row / 0.5, 0) for row in logits]
    wanted = [float(-(p * p.log()).sum() / torch.tensor(float(len(p))).log()) for p in shares]
    assert entropy(logits, 0.5).item() == pytest.approx(sum(wanted) / 2)
    assert wanted[1] == pytest.approx(1)
    smooth = [float(row.exp().sum().log()) for row in logits]
    assert beta_decay(logits).item() == pytest.approx(sum(smooth) / 2)
    row = logits[0].clone().requires_grad_()
    beta_decay([row]).backward()
    assert torch.allclose(row.grad, logits[0].softmax(0))  # type: ignore[arg-type]


def test_a_penalty_of_struck_out_options_is_finite() -> None:
    row = torch.tensor([1.0, -torch.inf, 0.0], requires_grad=True)
    (entropy([row], 1.0) + beta_decay([row])).backward()
    assert row.grad is not None
    assert row.grad.isfinite().all()
    assert row.grad[1] == 0


def test_penalties_follow_their_schedules() -> None:
    supernet = make_supernet()
    assert controller(supernet).penalty(20) is None
    schedule = {"start": 0.0, "end": 2.0}
    searched = controller(supernet, warmup=0, cooldown=0, entropy=schedule)
    penalties = [searched.penalty(step) for step in (0, 39)]
    values = [penalty.item() for penalty in penalties if penalty is not None]
    assert values == pytest.approx([0.0, 2.0])  # no preference yet: entropy 1
