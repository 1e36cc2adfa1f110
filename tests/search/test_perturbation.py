"""The perturbation rule: what it chooses, and when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peml.prefix.operations.registry import SKIP
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.supernet import PrefixSupernet
from peml.search.controller import SearchController
from peml.search.settings import SearchSettings
from peml.search.timetable import Timetable

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


@settings(deadline=None)
@given(
    steps=st.integers(1, 60),
    warmup=st.floats(0, 0.6),
    cooldown=st.floats(0, 0.39),
    decisions=st.integers(1, 9),
)
def test_the_timetable_of_the_decisions(
    steps: int, warmup: float, cooldown: float, decisions: int
) -> None:
    """Every decision is made in the cool-down, none before."""
    table = Timetable(SearchSettings(warmup=warmup, cooldown=cooldown), steps)
    picks = [table.picks(step, decisions) for step in range(steps)]
    assert picks == sorted(picks)
    assert not any(picks[: table.cooldown_start])
    assert picks[-1] == (decisions if table.cooldown_steps else 0)
