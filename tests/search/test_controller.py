"""The controller: weights per step, what the log sees, guards, and resuming."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from pydantic import ValidationError

from peml.errors import CheckpointError
from peml.prefix.operations.registry import SKIP
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.supernet import PrefixSupernet
from peml.search.controller import SearchController
from peml.search.relaxation import RELAXATIONS
from peml.search.settings import SearchSettings, TemperatureSchedule

SHAPE = PrefixShape(layers=3, kv_heads=1, head_dim=4)


def make_supernet(**options: object) -> PrefixSupernet:
    values: dict[str, object] = {"length": (2, 4), "width": 4, "cells": 3}
    chosen = PrefixSettings.model_validate(
        values | {"operations": ("linear", "conv", "skip")} | options
    )
    return PrefixSupernet(chosen.space(SHAPE), SHAPE, PrefixStart.zeros(SHAPE))


def controller(
    supernet: PrefixSupernet | None = None, steps: int = 20, seed: int = 0, **options: object
) -> SearchController:
    chosen = SearchSettings.model_validate(options)
    return SearchController(supernet or make_supernet(), chosen, steps, seed)


def set_logits(supernet: PrefixSupernet, **logits: list[float]) -> None:
    with torch.no_grad():
        for name, values in logits.items():
            supernet.decisions[name.replace("_", ".")].logits.copy_(torch.tensor(values))


def noisy_logits(supernet: PrefixSupernet) -> None:
    torch.manual_seed(4)
    with torch.no_grad():
        for logits in supernet.architecture_parameters():
            logits.copy_(torch.randn_like(logits))


@pytest.mark.parametrize("relaxation", list(RELAXATIONS))
def test_weights_are_a_simplex_for_every_decision(relaxation: str) -> None:
    supernet = make_supernet()
    noisy_logits(supernet)
    for step in (0, 10, 19):
        weights = controller(supernet, relaxation=relaxation).weights(step)
        assert list(weights) == list(supernet.decisions)
        for name, row in weights.items():
            assert row.shape == supernet.decisions[name].logits.shape
            assert row.min() >= 0
            assert row.sum().item() == pytest.approx(1, abs=1e-5)


def test_softmax_weights_are_those_of_each_decision() -> None:
    supernet = make_supernet()
    noisy_logits(supernet)
    searched = controller(supernet, relaxation="softmax")
    for name, row in searched.weights(13).items():
        logits = supernet.decisions[name].logits
        assert torch.allclose(row, (logits / searched.timetable.temperature(13)).softmax(-1))


def test_only_weights_move_in_the_warmup() -> None:
    supernet = make_supernet()
    searched = controller(supernet, warmup=0.25, cooldown=0.1)
    still = [step for step in range(20) if not searched.timetable.is_due(step)]
    assert still == [0, 1, 2, 3, 4, 18, 19]
    supernet(searched.weights(4)).tensor.sum().backward()
    assert all(logits.grad is None for logits in supernet.architecture_parameters())
    supernet(searched.weights(5)).tensor.sum().backward()
    assert all(logits.grad is not None for logits in supernet.architecture_parameters())


def test_an_optimizer_leaves_the_logits_alone_in_the_warmup() -> None:
    supernet = make_supernet()
    searched = controller(supernet, steps=10, warmup=0.5, cooldown=0)
    optimizer = torch.optim.AdamW(supernet.architecture_parameters(), lr=0.1)
    moved = []
    for step in range(10):
        optimizer.zero_grad()
        with torch.no_grad():  # weights that do something, so that the logits get a gradient
            for parameter in supernet.weight_parameters():
                parameter.add_(0.1)
        (supernet(searched.weights(step)).tensor - 1).square().sum().backward()
        optimizer.step()
        moved.append(any(logits.any() for logits in supernet.architecture_parameters()))
    assert moved == [False] * 5 + [True] * 5


def test_the_temperature_is_annealed_while_the_logits_move() -> None:
    searched = controller(
        steps=20, warmup=0.5, cooldown=0.2, temperature={"start": 4.0, "end": 0.5}
    )
    temperatures = [searched.timetable.temperature(step) for step in range(20)]
    assert temperatures[:11] == [4.0] * 11
    assert temperatures[15:] == pytest.approx([0.5] * 5)
    assert all(a > b for a, b in itertools.pairwise(temperatures[10:16]))


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_the_cooldown_leads_to_the_guarded_choices(relaxation: str) -> None:
    supernet = make_supernet()
    set_logits(supernet, cell_0=[0, 4.5, 5], cell_1=[0, -1, 5], cell_2=[2, 1, 5])
    searched = controller(supernet, relaxation=relaxation, cooldown=0.2, warmup=0.2)
    assert [searched.timetable.hardness(step) for step in (0, 15, 16, 17, 19)] == [
        0,
        0,
        0.25,
        0.5,
        1,
    ]
    choices = searched.choices()
    assert choices.guarded
    chosen = supernet.one_hot(choices.choices)
    for weights in (searched.weights(19), searched.evaluation_weights(19)):
        assert all(torch.equal(weights[name], chosen[name]) for name in chosen)
    distances = [
        sum(float((searched.evaluation_weights(step)[n] - chosen[n]).abs().sum()) for n in chosen)
        for step in (15, 16, 17, 18, 19)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1


@pytest.mark.parametrize("rule", ["argmax", "perturbation"])
def test_the_free_weights_are_those_before_the_cooldown(rule: str) -> None:
    supernet = make_supernet()
    noisy_logits(supernet)
    searched = controller(
        supernet, relaxation="softmax", cooldown=0.4, discretise=rule, temperature={"end": 1.0}
    )
    free = searched.snapshot(11)
    for step in range(20):
        searched.advance(step, lambda weights: float(weights["cell.0"][0]))
    searched.conclude(lambda weights: float(weights["cell.0"][0]))
    assert set(searched.snapshot(19)["cell.0"].values()) == {0.0, 1.0}
    assert searched.free_weights() == free
    assert max(free["cell.0"].values()) < 1


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_the_snapshot_has_the_odds_that_steps_draw_with(relaxation: str) -> None:
    """Two logits 0.2 apart, the temperature at its end: noise draws them 55 to 45 all the same."""
    supernet = make_supernet(operations=("linear", "conv"))
    set_logits(supernet, cell_0=[0.2, 0.0])
    searched = controller(supernet, relaxation=relaxation, steps=2000, cooldown=0, warmup=0)
    weight = searched.snapshot(1999)["cell.0"]["linear"]
    expected = {"softmax": 0.8808, "gumbel": 0.5498}[relaxation]
    assert weight == pytest.approx(expected, abs=1e-3)
    if relaxation == "gumbel":
        drawn = [float(searched.weights(step)["cell.0"][0]) for step in range(1000, 2000)]
        assert sum(drawn) / 1000 == pytest.approx(weight, abs=0.04)


def test_without_a_cooldown_the_weights_stay_soft() -> None:
    searched = controller(relaxation="softmax", cooldown=0)
    assert searched.timetable.hardness(19) == 0
    assert searched.timetable.is_due(19)
    assert searched.weights(19)["cell.0"].max() < 1
    assert searched.free_weights() == searched.snapshot(19)


def test_schedules() -> None:
    exponential = TemperatureSchedule(start=10, end=0.1)
    assert [exponential.at(x) for x in (-1, 0, 0.5, 1, 2)] == pytest.approx([10, 10, 1, 0.1, 0.1])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 10, 100])
@pytest.mark.parametrize(("warmup", "cooldown"), [(0.3, 0.15), (0.5, 0.49), (0.9, 0), (0, 0.9)])
def test_short_searches_have_steps_that_move(steps: int, warmup: float, cooldown: float) -> None:
    searched = controller(steps=steps, warmup=warmup, cooldown=cooldown)
    moving = [step for step in range(steps) if searched.timetable.is_due(step)]
    assert moving == list(range(moving[0], moving[-1] + 1))
    assert searched.timetable.temperature(moving[-1]) == pytest.approx(0.1)
    assert all(searched.timetable.temperature(step) == 1 for step in range(moving[0]))
    assert all(searched.timetable.hardness(step) == 0 for step in range(moving[-1] + 1))
    assert searched.timetable.hardness(steps - 1) == (1 if searched.timetable.cooldown_steps else 0)


def test_a_search_of_one_step_works() -> None:
    searched = controller(steps=1)
    assert searched.timetable.temperature(0) == pytest.approx(0.1)
    assert searched.timetable.is_due(0)
    with pytest.raises(ValueError, match="at least one step"):
        controller(steps=0)


def test_asking_changes_nothing() -> None:
    searched = controller(relaxation="gumbel")
    state = torch.get_rng_state()
    first = searched.weights(7)
    searched.weights(8)
    searched.snapshot(7)
    again = searched.weights(7)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state())


def test_noise_differs_between_steps_seeds_and_decisions() -> None:
    supernet = make_supernet()
    searched = controller(supernet, relaxation="gumbel")
    one, two = searched.weights(7), searched.weights(8)
    other = controller(supernet, relaxation="gumbel", seed=1).weights(7)
    assert not torch.equal(one["cell.0"], two["cell.0"])
    assert not torch.equal(one["cell.0"], other["cell.0"])
    assert not torch.equal(one["cell.0"], one["cell.1"])
    assert not torch.equal(one["layer.0"], one["layer.1"])


def test_a_resumed_search_goes_on_identically() -> None:
    supernet = make_supernet()
    noisy_logits(supernet)
    searched = controller(supernet, relaxation="gumbel", seed=5)
    state = json.loads(json.dumps(searched.state_dict()))
    other = make_supernet()
    other.load_state_dict(supernet.state_dict())
    resumed = controller(other, relaxation="gumbel", seed=99)
    resumed.load_state_dict(state)
    for step in range(8, 20):
        before, after = searched.weights(step), resumed.weights(step)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_state_that_does_not_fit_is_refused() -> None:
    searched = controller()
    with pytest.raises(CheckpointError, match="has 30 steps"):
        searched.load_state_dict(searched.state_dict() | {"total_steps": 30})
    with pytest.raises(CheckpointError, match="fields seed"):
        searched.load_state_dict({"seed": 0})


def test_the_snapshot_is_free_of_noise() -> None:
    supernet = make_supernet()
    set_logits(supernet, cell_1=[1.0, 2.0, 0.0])
    searched = controller(supernet, relaxation="gumbel", warmup=0.8)
    snapshot = searched.snapshot(0)
    assert list(snapshot) == list(supernet.decisions)
    expected = {"linear": 0.2447, "conv": 0.6652, SKIP: 0.0900}
    assert snapshot["cell.1"] == pytest.approx(expected, abs=1e-3)
    json.dumps(snapshot)
    assert not any(w.requires_grad for w in searched.evaluation_weights(19).values())


def test_the_choice_is_the_largest_logit() -> None:
    supernet = make_supernet()
    set_logits(supernet, cell_0=[0, 1, 0], cell_1=[0, 0, 1], cell_2=[2, 1, 0], length=[0, 1])
    set_logits(supernet, layer_0=[0, 1])
    choices = controller(supernet).choices()
    assert choices.choices == {
        "cell.0": "conv", "cell.1": SKIP, "cell.2": "linear", "length": "4",
        "layer.0": "off", "layer.1": "on", "layer.2": "on",
    }  # fmt: skip
    assert choices.guarded == ()
    supernet.discretise(choices.choices)


def test_equal_logits_never_choose_skip_or_off_by_default_order() -> None:
    choices = controller().choices().choices
    assert choices["cell.0"] == "linear"
    assert choices["layer.0"] == "on"


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, set()), (1, {"cell.1"}), (0.5, {"cell.1"}), (0.7, {"cell.1", "cell.2"})]
)
def test_the_guard_overrules_a_collapse_to_skip(limit: float, kept: set[str]) -> None:
    """The cells closest to another operation give way, and take that operation."""
    supernet = make_supernet()
    set_logits(supernet, cell_0=[0, 4.5, 5], cell_1=[0, -1, 5], cell_2=[2, 1, 5])
    choices = controller(supernet, max_skips=limit).choices()
    assert {name for name, option in choices.choices.items() if option == SKIP} == kept
    flipped = {"cell.0": "conv", "cell.1": "linear", "cell.2": "linear"}
    assert set(choices.guarded) == set(flipped) - kept
    assert all(choices.choices[name] == flipped[name] for name in choices.guarded)
    network = supernet.discretise(choices.choices, {"guarded": list(choices.guarded)})
    assert network.genotype.found_by == {"guarded": list(choices.guarded)}


def test_the_guard_can_be_lifted() -> None:
    supernet = make_supernet()
    set_logits(supernet, cell_0=[0, 0, 5], cell_1=[0, 0, 5], cell_2=[0, 0, 5])
    choices = controller(supernet, max_skips=3).choices()
    assert [choices.choices[f"cell.{i}"] for i in range(3)] == [SKIP] * 3
    assert choices.guarded == ()


def test_one_layer_stays_on() -> None:
    supernet = make_supernet()
    set_logits(supernet, layer_0=[0, 3], layer_1=[1, 2], layer_2=[0, 2])
    choices = controller(supernet).choices()
    assert [choices.choices[f"layer.{i}"] for i in range(3)] == ["off", "on", "off"]
    assert choices.guarded == ("layer.1",)


def test_settings_say_how_many_skips() -> None:
    assert [SearchSettings(max_skips=0.5).skip_limit(cells) for cells in (1, 2, 3, 4)] == [
        0,
        1,
        1,
        2,
    ]
    assert SearchSettings.model_validate({"max_skips": 1}).skip_limit(3) == 1
    assert SearchSettings.model_validate({"max_skips": 1.0}).skip_limit(3) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"relaxation": "soft"}, {"share": 0}, {"share": 1}, {"warmup": 1},
        {"warmup": 0.5, "cooldown": 0.5}, {"max_skips": -1}, {"lead": -1}, {"lead": float("inf")},
        {"max_skips": 1.5}, {"temperature": {"start": 0.1, "end": 1}}, {"temperature": {"end": 0}},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SearchSettings.model_validate(options)
