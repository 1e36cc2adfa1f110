"""Closed forms and budgets of the methods with a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peml.methods.attached import AttachedModel
from peml.methods.base import Method
from peml.methods.budget import TOLERANCE
from peml.methods.layers import Layers, LinearShape
from peml.methods.prefix.settings import PrefixTuningSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.settings import LoraPrefixSettings, PemlSettings, halvings
from peml.methods.shape import ModelShape
from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape
from peml.testing import MethodSuite

# MiniLM's: six layers of 384 channels.
_WIDTHS = [("query", 384, 384), ("up", 384, 1536), ("down", 1536, 384)]
MINILM = ModelShape(
    layers=Layers(
        tuple(
            LinearShape(f"layer.{layer}.{name}", d_in, d_out)
            for layer in range(6)
            for name, d_in, d_out in [*_WIDTHS, *(("key", 384, 384),) * 3]
        )
    ),
    attention=PrefixShape(layers=6, kv_heads=12, head_dim=32),
    hidden_size=384,
    parameters=22_000_000,
    tasks=8,
)
RANK = 41_472
"""Parameters of one rank of LoRA on all of them."""


def build(name: str, **section: Any) -> Method:
    return build_method(parse_method({"name": name, **section}))


def total(method: Method) -> int:
    return sum(method.count_parameters(MINILM).values())


class TestPemlWithOneNetwork(MethodSuite):
    """With nothing left to search the closed form is exact."""

    settings = parse_method(
        {
            "name": "peml",
            "lora": {"r": 2},
            "prefix": {
                "length": 4,
                "width": 8,
                "cells": 2,
                "operations": ["linear"],
                "layer_gates": False,
            },
        }
    )
    families = ("bert",)
    identity_at_start = False
    # The cells' layers start at zero: what is before them comes a step later.
    learns_later = ("*.lora_*", *(f"*.network.{n}" for n in ("embeddings", "norm.*", "head.*")))
    learns_later = (*learns_later, "*.network.cells.?.operation.*")

    def fresh(self, family: str, *, seed: int = 0) -> AttachedModel:
        """The end of a search, which `fresh` calls, may draw random numbers: it is no attaching."""
        with torch.random.fork_rng(devices=[]):
            return super().fresh(family, seed=seed)


@pytest.mark.parametrize("budget", [4 * RANK, 8 * RANK, 16 * RANK, 32 * RANK, 64 * RANK])
@pytest.mark.parametrize("section", [{}, {"network": "flat"}, {"head": "low-rank"}])
@pytest.mark.parametrize("name", ["lora+prefix", "prefix-tuning"])
def test_a_fixed_prefix_meets_every_budget(name: str, section: Any, budget: int) -> None:
    resized = build(name, **section).resized(MINILM, budget)
    assert resized is not None
    assert abs(total(build_method(resized)) - budget) <= TOLERANCE * budget


@pytest.mark.parametrize("budget", [4 * RANK, 8 * RANK, 16 * RANK, 32 * RANK, 100 * RANK])
def test_whatever_is_found_the_budget_is_met(budget: int) -> None:
    resized = build("peml").resized(MINILM, budget)
    assert isinstance(resized, PemlSettings)
    low, high = build_method(resized).parameter_range(MINILM)
    assert budget * (1 - TOLERANCE) <= low < high <= budget * (1 + TOLERANCE)
    assert low <= total(build_method(resized)) <= high


def test_a_prefix_that_fits_stays_as_it_is() -> None:
    fixed = build("lora+prefix").resized(MINILM, 32 * RANK)
    assert isinstance(fixed, LoraPrefixSettings)
    assert fixed.model_copy(update={"lora": LoraPrefixSettings().lora}) == LoraPrefixSettings()
    searched = build("peml").resized(MINILM, 200 * RANK)
    assert isinstance(searched, PemlSettings)
    assert searched.prefix == PemlSettings().prefix


def test_the_larger_the_budget_the_larger_the_prefix_that_fits() -> None:
    widths, ranks = [], []
    for budget in (8, 16, 32):
        resized = build("peml").resized(MINILM, budget * RANK)
        assert isinstance(resized, PemlSettings)
        widths.append(resized.prefix.width)
        ranks.append(resized.lora.r)
    assert widths == sorted(widths)
    assert ranks == sorted(ranks)
    assert widths[0] < 64 == widths[-1]


@pytest.mark.parametrize("name", ["lora+prefix", "peml"])
def test_the_updates_scale_stays(name: str) -> None:
    method = build(name, lora={"r": 4, "alpha": 12})
    resized: Any = method.resized(MINILM, 20 * RANK)
    assert resized.lora.r != 4
    assert resized.lora.alpha / resized.lora.r == pytest.approx(3)


@pytest.mark.parametrize("name", ["lora+prefix", "peml"])
def test_out_of_reach_the_nearest_is_returned(name: str) -> None:
    resized: Any = build(name).resized(MINILM, RANK // 2)
    assert resized.lora.r == 1
    least = total(build_method(resized))
    assert RANK < least < 1.2 * RANK


def test_prefix_tuning_changes_the_size_its_network_has() -> None:
    flat = build("prefix-tuning", network="flat").resized(MINILM, 20 * 4608)
    mlp = build("prefix-tuning").resized(MINILM, 16 * RANK)
    assert isinstance(flat, PrefixTuningSettings)
    assert isinstance(mlp, PrefixTuningSettings)
    assert (flat.length, flat.width) == (20, 64)
    assert mlp.length == 16
    assert mlp.width > 64


def test_a_given_genotype_is_counted_as_it_is(tmp_path: Path) -> None:
    assert MINILM.attention is not None
    path = tmp_path / "genotype.json"
    Genotype.fixed_mlp(MINILM.attention, length=8, width=32).save(path)
    method = build("peml", search={"genotype": str(path)})
    fixed = build("lora+prefix", length=8, width=32)
    assert method.count_parameters(MINILM) == fixed.count_parameters(MINILM)
    assert method.parameter_range(MINILM) == (total(fixed), total(fixed))
    resized: Any = method.resized(MINILM, 16 * RANK)
    assert resized.search.genotype == path
    assert abs(total(build_method(resized)) - 16 * RANK) <= TOLERANCE * 16 * RANK


def test_methods_that_search_nothing_have_one_size() -> None:
    method = build("lora+prefix")
    assert method.parameter_range(MINILM) == (total(method), total(method))


def test_widths_are_halved_and_not_to_nothing() -> None:
    assert list(halvings(64)) == [64, 32, 16, 8, 4]
    assert list(halvings(3)) == [3]
