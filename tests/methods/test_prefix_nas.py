"""The searched prefix by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peml.errors import ConfigError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.layers import Layers
from peml.methods.prefix.settings import PrefixNasSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.settings import PemlSettings
from peml.methods.shape import ModelShape, read_shape
from peml.prefix.genotype import Genotype
from peml.prefix.prefix import PrefixStart
from peml.prefix.shape import PrefixShape
from peml.prefix.size import ExpectedSize
from peml.prefix.supernet import PrefixSupernet
from peml.testing import MethodSuite
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model

_MINILM = ModelShape(
    layers=Layers(()),
    attention=PrefixShape(layers=6, kv_heads=12, head_dim=32),
    hidden_size=384,
    parameters=22_000_000,
    tasks=5,
)
_PREFIX = {"length": [2, 4], "width": 8, "cells": 2}


def section(**settings: Any) -> dict[str, Any]:
    return {"name": "prefix-nas", "prefix": _PREFIX} | settings


def attach(tiny: str = "bert", **settings: Any) -> AttachedModel:
    model = tiny_task_model(tiny, TINY_TASKS)

    def calibrate() -> None:
        with torch.no_grad():
            model(batch_of(model))

    method = build_method(parse_method(section(**settings)))
    return method.attach(model, AttachContext(0, calibrate)).eval()


# The cells' last layers start at zero: what is before them comes a step later still.
_LATER = ("embeddings", "norm.*", "head.*", "cells.0.operation.last.*")
_LEARNS_LATER = tuple(f"added.prefix.network.{name}" for name in _LATER)


class TestPrefixNas(MethodSuite):
    settings = parse_method(section(search={"mode": "none"}))
    families = ("bert", "llama", "t5", "gpt2")
    identity_at_start = False
    learns_first = ("added.prefix.network.head.last.weight",)
    learns_later = _LEARNS_LATER


def test_the_prefix_its_decisions_and_the_heads_train_and_nothing_else() -> None:
    model = attach()
    assert model.search is not None
    assert [group.name for group in model.groups()] == ["prefix", "architecture", "heads"]


def test_the_search_leaves_the_network_that_it_names() -> None:
    model = attach()
    assert model.search is not None
    model.search.begin(1)
    genotype, _ = model.search.discretise(1)
    assert model.genotype() == genotype
    assert not genotype.ranks
    assert [group.name for group in model.groups()] == ["prefix", "heads"]


def test_where_nothing_pulls_the_larger_options_stay() -> None:
    model = attach(search={"lead": 1.0})
    assert model.search is not None
    model.search.begin(1)
    genotype, _ = model.search.discretise(1)
    assert all(genotype.layers)
    assert genotype.length == 4


@pytest.mark.parametrize("mode", ["none", "random"])
def test_a_network_nobody_searched_is_there_at_once(mode: str) -> None:
    model = attach(search={"mode": mode})
    assert model.search is None
    assert model.genotype() is not None


@pytest.mark.parametrize("budget", [60_000, 250_000, 900_000])
@pytest.mark.parametrize("mode", ["search", "random", "none"])
def test_a_budget_is_met_by_width_and_held_by_the_search(mode: str, budget: int) -> None:
    method = build_method(PrefixNasSettings.model_validate({"search": {"mode": mode}}))
    resized = method.resized(_MINILM, budget)
    assert isinstance(resized, PrefixNasSettings)
    assert resized.search.budget == (None if mode == "none" else budget)
    (count,) = build_method(resized).count_parameters(_MINILM).values()
    assert count == pytest.approx(budget, rel=0.05)


@pytest.mark.parametrize("lead", [0.0, 3.0])
def test_the_size_to_expect_is_that_of_the_odds_a_search_starts_with(lead: float) -> None:
    settings = PrefixNasSettings.model_validate({"search": {"lead": lead}})
    assert _MINILM.attention is not None
    space = settings.prefix.space(_MINILM.attention)
    supernet = PrefixSupernet(space, _MINILM.attention, PrefixStart.zeros(_MINILM.attention), lead)
    size = ExpectedSize(space, _MINILM.attention)
    odds = {name: decision.logits.softmax(-1) for name, decision in supernet.decisions.items()}
    (count,) = build_method(settings).count_parameters(_MINILM).values()
    # Not all layers may be off, which the odds leave out: up to 1.6 % with six of them.
    assert count == pytest.approx(size(size.pack(odds, 0.0)).item(), rel=0.02)


def test_a_rule_that_cant_hold_a_budget_is_resized_by_width_alone() -> None:
    settings = PrefixNasSettings.model_validate({"search": {"discretise": "perturbation"}})
    resized = build_method(settings).resized(_MINILM, 250_000)
    assert isinstance(resized, PrefixNasSettings)
    assert parse_method(resized.model_dump(mode="json")) == resized
    (count,) = build_method(resized).count_parameters(_MINILM).values()
    assert count == pytest.approx(250_000, rel=0.05)


def test_a_genotypes_size_is_given(tmp_path: Path) -> None:
    model = attach(search={"mode": "random"})
    genotype = model.genotype()
    assert genotype is not None
    genotype.save(tmp_path / "found.json")
    method = build_method(parse_method(section(search={"genotype": str(tmp_path / "found.json")})))
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))
    assert method.resized(shape, 10_000) is None
    assert method.parameter_range(shape) == (size_of(model), size_of(model))


def size_of(model: AttachedModel) -> int:
    (prefix, _) = model.groups()
    return sum(parameter.numel() for parameter in prefix.parameters)


def test_it_learns_faster_and_starts_louder_than_beside_a_lora() -> None:
    alone, beside = PrefixNasSettings(), PemlSettings()
    assert alone.prefix_learning_rate > beside.prefix_learning_rate
    assert alone.prefix.quietness < beside.prefix.quietness
    partly = PrefixNasSettings.model_validate({"prefix": {"cells": 1}})
    assert partly.prefix.quietness == alone.prefix.quietness


def test_an_order_of_lora_and_prefix_is_refused() -> None:
    with pytest.raises(ValidationError, match="prefix-nas has no LoRA"):
        PrefixNasSettings.model_validate({"search": {"order": "search-first"}})


def test_a_genotype_with_lora_ranks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    saved = attach(search={"mode": "random"}).genotype()
    assert saved is not None
    Genotype(**{**vars(saved), "ranks": {"encoder.layer.*.query": 4}}).save(path)
    with pytest.raises(ConfigError, match="holds LoRA ranks"):
        attach(search={"genotype": str(path)})
