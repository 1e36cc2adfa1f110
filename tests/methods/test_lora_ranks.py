"""LoRA ranks that are searched for each group of modules: nested, and cut without a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor

from peml.errors import ConfigError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method
from peml.methods.layers import LinearShape
from peml.methods.lora.lora import LoraPart
from peml.methods.lora.part import ADAPTER
from peml.methods.lora.ranks import rank_groups
from peml.methods.prefix.part import PrefixPart
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.prefix.genotype import Genotype
from peml.prefix.supernet import PrefixSupernet
from peml.testing import MethodSuite
from peml.testing.models import tiny_model
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model
from peml.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from peml.training.settings import TrainingSettings

RANKS = (1, 2, 4)
PREFIX = {"length": [2, 4], "width": 8, "cells": 2}


def method_of(**changes: Any) -> Method:
    section = {"name": "peml", "lora": {"r": 2, "alpha": 6}, "prefix": PREFIX, "lora_ranks": RANKS}
    return build_method(parse_method(section | changes))


def attach(tiny: str = "bert", *, genotype: Genotype | None = None, **changes: Any) -> Any:
    """After some training: nothing is zero."""
    model = tiny_task_model(tiny, TINY_TASKS)

    def calibrate() -> None:
        with torch.no_grad():
            model(batch_of(model))

    context = AttachContext(0, calibrate, genotype)
    attached = method_of(**changes).attach(model, context)
    with torch.no_grad():
        for group in attached.groups():
            for parameter in group.parameters:
                noise = torch.Generator().manual_seed(parameter.numel())
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    return attached.eval()


def supernet(model: AttachedModel) -> PrefixSupernet:
    part = model.parts["prefix"]
    assert isinstance(part, PrefixPart)
    assert isinstance(part.network, PrefixSupernet)
    return part.network


def lora(model: AttachedModel) -> LoraPart:
    part = model.parts["lora"]
    assert isinstance(part, LoraPart)
    return part


def groups(model: AttachedModel) -> list[str]:
    return [group.name for group in supernet(model).space.ranks]


def prefer(model: AttachedModel, options: dict[str, str]) -> None:
    """Moves the logits so far that these options are all but certain."""
    for name, decision in supernet(model).decisions.items():
        with torch.no_grad():
            decision.logits.zero_()
            chosen = options.get(name, decision.options[0])
            decision.logits[decision.options.index(chosen)] = 200.0


def scores(model: AttachedModel) -> Tensor:
    with torch.no_grad():
        made: Tensor = model(batch_of(model.base)).scores
    return made


def test_layers_that_differ_in_their_numbers_are_one_group() -> None:
    linears = [
        LinearShape("encoder.layer.0.query", 4, 6),
        LinearShape("encoder.layer.11.query", 4, 6),
        LinearShape("encoder.layer.0.output.dense", 8, 4),
        LinearShape("pooler.dense2", 3, 3),
    ]
    found = {group.name: (group.ranks, group.cost) for group in rank_groups(linears, [8, 2])}
    assert found == {
        "encoder.layer.*.query": ((2, 8), 20),
        "encoder.layer.*.output.dense": ((2, 8), 12),
        "pooler.dense2": ((2, 8), 6),
    }


@pytest.mark.parametrize("tiny", ["bert", "llama", "gpt2", "t5"])
def test_the_cut_lora_is_what_the_masked_one_was(tiny: str) -> None:
    model = attach(tiny)
    names = groups(model)
    wanted = {name: RANKS[place % 3] for place, name in enumerate(names)}
    prefer(model, {f"rank.{name}": str(rank) for name, rank in wanted.items()})
    model.search.begin(10)
    model.search.before_evaluation(9)
    before = scores(model)
    genotype, _ = model.search.discretise(10)
    model.search = None
    assert genotype.ranks == wanted
    assert {layer.r[ADAPTER] for layer in lora(model).layers().values()} == {*wanted.values()}
    assert torch.allclose(scores(model), before, atol=1e-6)
    assert not any(m._forward_hooks for m in model.modules() if "lora" in type(m).__name__.lower())


def test_a_mixture_is_the_nested_sum_of_its_ranks() -> None:
    """Against the weights written out: W + alpha / r_max B diag(m) A."""
    model = attach()
    layer = next(iter(lora(model).layers().values()))
    name = groups(model)[0]
    shares = torch.tensor([0.5, 0.3, 0.2])
    weights = supernet(model).uniform_weights() | {f"rank.{name}": shares}
    model.search.begin(10)
    model.search._ranks.mix(weights)
    mask = torch.diag(torch.tensor([1.0, 0.5, 0.2, 0.2]))
    first, last = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    update = 6 / 2 * last @ mask @ first  # alpha / r of the settings
    given = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(1))
    wanted = layer.get_base_layer()(given) + given @ update.T
    assert torch.allclose(layer(given), wanted, atol=1e-6)


def test_the_ranks_get_a_gradient_and_the_batch_alone_decides_it() -> None:
    model = attach()
    model.search.begin(20)
    model.search.before_step(10)
    model.train()(batch_of(model.base)).loss.backward()
    for name in groups(model):
        gradient = supernet(model).decisions[f"rank.{name}"].logits.grad
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name


def test_a_budget_counts_lora_and_prefix() -> None:
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))
    search = {"budget": 3000, "mode": "random"}
    counted = method_of(search=search).count_parameters(shape)
    assert sum(counted.values()) == pytest.approx(3000, abs=1)
    sizes = set()
    for width in (2400, 3000, 4000):
        model = attach(search=search | {"budget": width})
        trained = {group.name: group for group in model.groups()}
        sizes.add(size := sum(p.numel() for n in ("lora", "prefix") for p in trained[n].parameters))
        assert size <= width
    assert len(sizes) == 3


def test_the_lead_of_larger_ranks_counts_in_the_size_to_expect() -> None:
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))

    def mean_rank(lead: float) -> float:
        counted = method_of(search={"lead": lead}).count_parameters(shape)
        whole = method_of(lora_ranks=[1, 1000]).parameter_range(shape)
        thousand = method_of(lora_ranks=[1000, 1001]).parameter_range(shape)
        return counted["lora"] / (thousand[0] - whole[0]) * 999

    assert mean_rank(0.0) == pytest.approx(sum(RANKS) / 3, abs=0.01)
    odds = torch.tensor([0.0, 1.0, 3.0]).softmax(0)  # a lead of 3, a third of it for rank 2
    assert mean_rank(3.0) == pytest.approx((odds * torch.tensor(RANKS)).sum().item(), abs=0.01)


def test_matching_searches_within_the_budget() -> None:
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))
    settings = method_of().resized(shape, 2800)
    assert settings is not None
    found = build_method(settings)
    assert sum(found.count_parameters(shape).values()) == pytest.approx(2800, abs=1)
    low, high = found.parameter_range(shape)
    assert low < 2800 <= high <= 2801


def test_peft_reads_a_lora_of_many_ranks(tmp_path: Path) -> None:
    model = attach()
    names = groups(model)
    prefer(model, {f"rank.{name}": str(RANKS[i % 3]) for i, name in enumerate(names)})
    model.search.begin(10)
    model.search.discretise(10)
    model.save_parts(tmp_path)
    other = PeftModel.from_pretrained(tiny_model("bert"), str(tmp_path / "lora"))
    read = dict(other.named_modules())
    for path, layer in lora(model).layers().items():
        loaded = read[f"base_model.model.{path}"]
        assert torch.equal(
            loaded.get_delta_weight(ADAPTER),
            layer.get_delta_weight(ADAPTER),
        ), path


def test_the_moments_of_what_stays_are_kept() -> None:
    model = attach()
    settings = TrainingSettings()
    model.search.begin(20)
    model.search.before_step(10)
    optimizer = build_optimizer(model.groups(), settings)
    model.train()(batch_of(model.base)).loss.backward()
    optimizer.step()
    prefer(model, {f"rank.{name}": "2" for name in groups(model)})
    moments = optimizer_state(optimizer, model)
    path, layer = next(iter(lora(model).layers().items()))
    before = optimizer.state[layer.lora_A[ADAPTER].weight]["exp_avg"].clone()
    model.search.discretise(20)
    fresh = build_optimizer(model.groups(), settings)
    load_optimizer_state(fresh, model, moments)
    after = fresh.state[layer.lora_A[ADAPTER].weight]["exp_avg"]
    assert before.abs().sum() > 0, path
    assert torch.equal(after, before[:2])


def test_ranks_of_other_modules_are_refused() -> None:
    model = attach(search={"mode": "random"})
    genotype = model.genotype()
    assert genotype is not None
    assert set(genotype.ranks.values()) <= set(RANKS)
    odd = genotype.model_copy(update={"ranks": {"decoder.*.query": 2}})
    with pytest.raises(ConfigError, match=r"ranks don't fit this model.*decoder\.\*\.query"):
        attach(genotype=odd)


def test_a_small_budget_names_the_smallest_member() -> None:
    with pytest.raises(ConfigError, match=r"smallest member .* LoRA ranks 1, 1"):
        attach(search={"budget": 10})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_ranks": [2, 2]}, "a rank stands twice"),
        ({"lora_ranks": [0, 2]}, "greater than or equal to 1"),
        ({"search": {"mode": "none"}}, "decide nothing"),
        ({"search": {"order": "search-first"}}, "whose search runs without LoRA"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        method_of(**changes)


class TestDrawnRanks(MethodSuite):
    settings = parse_method(
        {
            "name": "peml",
            "prefix": PREFIX | {"layer_gates": False, "operations": ["linear"], "length": 4},
            "lora": {"r": 2},
            "lora_ranks": [2],
            "search": {"mode": "random"},
        }
    )
    families = ("bert", "llama")
    identity_at_start = False
    learns_first = ("*.lora_B.*", "added.prefix.network.head.last.weight")
    learns_later = (
        "*.lora_*",
        "added.prefix.network.embeddings",
        "added.prefix.network.norm.*",
        "added.prefix.network.head.*",
        "added.prefix.network.cells.*.last.*",
    )
