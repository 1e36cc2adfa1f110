"""PEML without a search: a given, a fixed or a random network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peml.errors import ConfigError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.methods.settings import PemlSettings
from peml.methods.shape import read_shape
from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape
from peml.prefix.size import count_network
from peml.search.settings import SearchSettings
from peml.testing import MethodSuite
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model

_PREFIX = {"length": [2, 4], "width": 8, "cells": 2}


def section(**search: Any) -> dict[str, Any]:
    return {"name": "peml", "lora": {"r": 2}, "prefix": _PREFIX, "search": search}


class TestFixedNetwork(MethodSuite):
    settings = parse_method(section(mode="none"))
    families = ("bert",)
    identity_at_start = False
    learns_first = ("*.lora_B.*", "added.prefix.network.head.last.weight")
    learns_later = (
        "*.lora_*",
        "added.prefix.network.embeddings",
        "added.prefix.network.norm.*",
        "added.prefix.network.head.*",
        "added.prefix.network.cells.0.operation.last.*",
    )


def attach(seed: int = 0, tiny: str = "bert", **search: Any) -> AttachedModel:
    model = tiny_task_model(tiny, TINY_TASKS)

    def calibrate() -> None:
        with torch.no_grad():
            model(batch_of(model))

    method = build_method(parse_method(section(**search)))
    return method.attach(model, AttachContext(seed, calibrate)).eval()


def genotype(model: AttachedModel) -> Genotype:
    made = model.genotype()
    assert made is not None
    return made


def test_a_search_has_no_genotype_yet() -> None:
    model = attach()
    assert model.genotype() is None
    assert model.search is not None


@pytest.mark.parametrize("mode", ["none", "random"])
def test_without_a_search_there_is_a_network_at_once(mode: str) -> None:
    method = build_method(parse_method(section(mode=mode)))
    assert method.search_share() == 0
    model = attach(mode=mode)
    assert model.search is None
    assert genotype(model).found_by["by"] == {"none": "fixed"}.get(mode, mode)
    assert [group.name for group in model.groups()] == ["lora", "prefix", "heads"]


def test_the_seed_draws_the_random_network_and_nothing_else_draws_the_fixed_one() -> None:
    drawn = [genotype(attach(seed, mode="random")) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({made.cells for made in drawn}) > 1
    assert drawn[2].found_by == {"by": "random", "seed": 1}
    assert genotype(attach(0, mode="none")) == genotype(attach(1, mode="none"))


def test_random_networks_lie_in_the_range_said() -> None:
    method = build_method(parse_method(section(mode="random")))
    low, high = method.parameter_range(read_shape(tiny_task_model("bert", TINY_TASKS)))
    for seed in range(5):
        groups = [group for group in attach(seed, mode="random").groups() if group.name != "heads"]
        assert low <= sum(p.numel() for group in groups for p in group.parameters) <= high


def test_a_genotype_of_another_model_is_refused_or_adapted(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    Genotype.fixed_mlp(PrefixShape(5, 1, 4), length=3, width=8).save(path)
    with pytest.raises(ConfigError, match="made for PrefixShape"):
        attach(genotype=path)
    with pytest.warns(UserWarning, match="head_dim: 4 -> "):
        model = attach(genotype=path, adapt=True)
    made = genotype(model)
    assert (made.length, made.cells) == (3, ("mlp-tanh",))
    assert len(made.layers) == made.shape.layers != 5
    assert made.found_by["adapted"]


def test_one_source_of_the_network() -> None:
    with pytest.raises(ValidationError, match="genotype must be left out"):
        SearchSettings(mode="random", genotype=Path("x.json"))
    with pytest.raises(ValidationError, match="set genotype"):
        SearchSettings(adapt=True)
    assert PemlSettings().search.searches


def test_a_budget_binds_the_random_network_and_the_plan() -> None:
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))
    free = build_method(parse_method(section(mode="random"))).parameter_range(shape)
    method = build_method(parse_method(section(mode="random", budget=1500)))
    counted = method.count_parameters(shape)
    assert counted["prefix"] == 1500
    assert method.parameter_range(shape) == (free[0], counted["lora"] + 1500)
    sizes = [count_network(genotype(attach(seed, mode="random", budget=1500))) for seed in range(8)]
    assert max(sizes) <= 1500
    assert len(set(sizes)) > 1


@pytest.mark.parametrize("mode", ["search", "random"])
def test_a_budget_out_of_reach_is_refused_when_planned_and_when_attached(mode: str) -> None:
    method = build_method(parse_method(section(mode=mode, budget=20)))
    with pytest.raises(ConfigError, match="smallest member"):
        method.count_parameters(read_shape(tiny_task_model("bert", TINY_TASKS)))
    with pytest.raises(ConfigError, match="smallest member"):
        attach(mode=mode, budget=20)
