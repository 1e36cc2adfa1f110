"""Closed forms of network sizes, against networks that are built."""

from __future__ import annotations

from itertools import product
from math import exp
from statistics import fmean
from typing import Any

import pytest
import torch

from peml.prefix import (
    Genotype,
    HeadKind,
    PrefixNetwork,
    PrefixShape,
    PrefixStart,
    SearchSpace,
    SizeRange,
    count_choices,
    count_network,
    count_space,
    list_operations,
)

SHAPE = PrefixShape(layers=3, kv_heads=2, head_dim=8)


def built(genotype: Genotype) -> int:
    network = PrefixNetwork(genotype, SHAPE, PrefixStart.zeros(SHAPE))
    return sum(parameter.numel() for parameter in network.parameters())


def genotype(**changes: Any) -> Genotype:
    made = Genotype.fixed_mlp(SHAPE, length=4, width=12)
    return made.model_copy(update=changes)


@pytest.mark.parametrize("name", list_operations())
def test_each_operation_is_counted(name: str) -> None:
    made = genotype(cells=(name, "linear"))
    assert count_network(made) == built(made)


@pytest.mark.parametrize("head", ["full", "low-rank"])
@pytest.mark.parametrize("layers", [(True, True, True), (False, True, False)])
def test_head_and_active_layers_are_counted(head: HeadKind, layers: tuple[bool, ...]) -> None:
    made = genotype(head=head, head_rank=5, layers=layers)
    assert count_network(made) == built(made)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_gates": False},
        {"heads": ("low-rank",)},
        {"heads": ("full", "low-rank"), "head_rank": 2},
        {"lengths": (6,), "operations": ("skip",)},
    ],
)
def test_a_space_is_as_large_as_all_its_networks(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "layers": SHAPE.layers,
        "cells": 2,
        "operations": ("skip", "linear", "gated-mlp"),
        "lengths": (2, 5),
        "layer_gates": True,
        "heads": ("full",),
        "head_rank": 4,
        "width": 8,
        "radius": 1.0,
    }
    space = SearchSpace(**(fields | changes))
    options, larger = space.options(), space.sizes()
    sizes, weights = [], []
    for choices in product(*options.values()):
        chosen = dict(zip(options, choices, strict=True))
        if any(chosen[f"layer.{layer}"] == "on" for layer in range(SHAPE.layers)):
            sizes.append(built(Genotype.from_choices(space, SHAPE, chosen)))
            assert count_choices(space, SHAPE, chosen) == sizes[-1]
            leads = [
                1.5 * larger[name][options[name].index(option)]
                for name, option in chosen.items()
                if name in larger
            ]
            weights.append(exp(sum(leads)))
    counted, ahead = count_space(space, SHAPE), count_space(space, SHAPE, lead=1.5)
    assert (counted.low, counted.high) == (ahead.low, ahead.high) == (min(sizes), max(sizes))
    assert counted.mean == pytest.approx(fmean(sizes))
    assert ahead.mean == pytest.approx(fmean(sizes, weights))


def test_counting_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    # A width of its own, so that nothing is remembered from another test.
    count_network(genotype(cells=list_operations(), width=20))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_farthest_network_counts() -> None:
    size = SizeRange(low=10, mean=14.0, high=20)
    assert size.distance(12) == 8
    assert size.distance(19) == 9
    assert size.shifted(5) == SizeRange(15, 19.0, 25)
    assert SizeRange.exactly(7).distance(9) == 2
