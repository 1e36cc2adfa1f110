"""Closed forms of network sizes, against networks that are built."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.operations.operation import Operation, zero_linear
from peml.prefix.operations.registry import OPERATIONS, list_operations
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.size import SizeRange, count_choices, count_network, count_space
from peml.prefix.space import HeadKind, SearchSpace
from peml.prefix.supernet import PrefixSupernet
from tests.packages import added

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


class ByPosition(Operation):
    """A linear layer and a scale for each position: its size depends on the length."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.scale = nn.Parameter(torch.ones(length, width))
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        result: Tensor = self.last(x * self.scale[torch.arange(len(x))])
        return result


@pytest.fixture
def by_position(tmp_path: Path) -> Iterator[None]:
    with added(OPERATIONS, tmp_path, {"by-position": f"{__name__}:ByPosition"}):
        yield


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_gates": False},
        {"heads": ("low-rank",)},
        {"heads": ("full", "low-rank"), "head_rank": 2},
        {"lengths": (6,), "operations": ("skip",)},
        {"operations": ("skip", "by-position", "linear")},
        {"lengths": (2, 4, 7), "operations": ("by-position",), "layer_gates": False},
        {"lengths": (6,), "operations": ("by-position", "linear")},
    ],
)
@pytest.mark.usefixtures("by_position")
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


@pytest.mark.usefixtures("by_position")
def test_a_search_ends_with_the_first_positions_of_what_depends_on_the_length() -> None:
    settings = PrefixSettings(operations=("by-position", "linear"), cells=1, length=(2, 5))
    space = settings.space(SHAPE)
    supernet = PrefixSupernet(space, SHAPE, PrefixStart.zeros(SHAPE))
    with torch.no_grad():
        for parameter in supernet.weight_parameters():
            parameter.add_(torch.randn_like(parameter))
    choices = {**space.sample(torch.Generator()), "cell.0": "by-position", "length": "2"}
    decided = supernet.discretise(choices)
    wanted = supernet(supernet.one_hot(choices))
    torch.testing.assert_close(decided().tensor, wanted.tensor)
    assert decided().tensor.shape[3] == 2
    assert sum(p.numel() for p in decided.parameters()) == count_choices(
        space, SHAPE, space.complete(choices)
    )


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
