"""A searched prefix in front of the input embeddings: a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from peml.errors import ConfigError, ModelError
from peml.export import load_model, save_model
from peml.files import read_tensors
from peml.methods import (
    AttachContext,
    AttachedModel,
    PrefixPart,
    build_method,
    parse_method,
    read_shape,
)
from peml.prefix import Genotype, PrefixShape, PrefixSupernet, count_network
from peml.testing import MethodSuite
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model

_TEXT = "the old dog sleeps and the young cat runs home to the river"
_PREFIX: dict[str, Any] = {"placement": "input", "length": [2, 4], "width": 8, "cells": 2}
_NETWORK = "added.prefix.network."


def section(search: dict[str, Any] | None = None, **prefix: Any) -> dict[str, Any]:
    return {
        "name": "peml",
        "lora": {"r": 2},
        "prefix": _PREFIX | prefix,
        "search": search or {},
    }


class TestAtTheInput(MethodSuite):
    settings = parse_method(section(length=3, cells=1, operations=["linear"]))
    families = ("bert", "llama", "t5", "gpt2")
    identity_at_start = False
    learns_first = (f"{_NETWORK}head.last.weight", "*.lora_B.*")
    learns_later = (
        "*.lora_*",
        f"{_NETWORK}head.last.weight",
        f"{_NETWORK}embeddings",
        f"{_NETWORK}norm.*",
        f"{_NETWORK}cells.0.operation.*",
    )


def attach(
    tiny: str = "bert", search: dict[str, Any] | None = None, seed: int = 0, **prefix: Any
) -> AttachedModel:
    model = tiny_task_model(tiny, TINY_TASKS)
    method = build_method(parse_method(section(search, **prefix)))
    return method.attach(model, AttachContext(seed, lambda: None)).eval()


def part(model: AttachedModel) -> PrefixPart:
    found = model.parts["prefix"]
    assert isinstance(found, PrefixPart)
    return found


def vectors(model: AttachedModel) -> Tensor:
    model.prepare()
    assert model.base.prompt.vectors is not None
    return model.base.prompt.vectors.detach()


def scores(model: Any) -> Tensor:
    with torch.no_grad():
        made: Tensor = model(batch_of(getattr(model, "base", model))).scores
    return made


def shaken(model: AttachedModel) -> AttachedModel:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in part(model).network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_same_search_ends_in_a_network_that_yields_a_prompt() -> None:
    model = attach()
    assert [group.name for group in model.groups()] == ["lora", "prefix", "architecture", "heads"]
    assert model.search is not None
    model.search.begin(4)
    optimizer = torch.optim.Adam([p for g in model.groups() for p in g.parameters], lr=0.05)
    before = [p.detach().clone() for p in model.groups()[2].parameters]
    model.train()
    for step in range(4):
        model.search.before_step(step)
        model(batch_of(model.base)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.groups()[2].parameters
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    model.eval()
    model.search.before_evaluation(3)
    soft = scores(model)
    genotype, _ = model.search.discretise(4)
    assert genotype.shape == PrefixShape.at_input(32)
    assert genotype.layers == (True,)
    assert vectors(model).shape == (genotype.length, 32)
    assert soft.shape == scores(model).shape


def test_there_is_no_gate_to_decide() -> None:
    model = attach()
    network = part(model).network
    assert isinstance(network, PrefixSupernet)
    assert set(network.decisions) == {"cell.0", "cell.1", "length"}


@pytest.mark.parametrize("start", [None, "vocabulary", "zero", "random", "text"])
def test_each_start_is_what_it_says(start: str | None) -> None:
    text = _TEXT if start == "text" else None
    model = attach(search={"mode": "none"}, start=start, text=text)
    made, embed = vectors(model), model.base.backbone.get_input_embeddings()
    assert made.shape == (4, 32)
    table = embed.weight.detach()
    distance = torch.cdist(made, table, compute_mode="donot_use_mm_for_euclid_dist")
    if start in (None, "vocabulary"):
        assert distance.min(1).values.max() < 1e-3
        assert len(set(distance.argmin(1).tolist())) == 4
    elif start == "text":
        ids = torch.tensor(model.base.family.tokenizer(_TEXT)["input_ids"][:4])
        torch.testing.assert_close(made, embed(ids).detach())
    elif start == "zero":
        assert not made.any()
    else:
        assert 0.7 < made.std() < 1.3


def test_the_vectors_stay_within_their_radius() -> None:
    model = attach(search={"mode": "none"}, start="zero", radius=0.5)
    with torch.no_grad():
        part(model).network.get_parameter("head.last.weight").fill_(1e4)
    norms = model.base.backbone.get_input_embeddings().weight.norm(dim=-1)
    assert vectors(model).norm(dim=-1).max() < norms.max()


def test_saved_it_is_a_prompt_of_its_own_file_and_no_prefix(tmp_path: Path) -> None:
    settings = parse_method(section({"mode": "none"}))
    model = shaken(attach("llama", {"mode": "none"}))
    before, kept = scores(model), vectors(model)
    save_model(model, tmp_path / "model", settings)
    assert not (tmp_path / "model" / "prefix.safetensors").exists()
    assert torch.equal(read_tensors(tmp_path / "model" / "prompt.safetensors")["prompt"], kept)
    torch.testing.assert_close(scores(load_model(tmp_path / "model")), before, rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_input() -> None:
    shape = read_shape(tiny_task_model("bert", TINY_TASKS))
    method = build_method(parse_method(section({"mode": "none"})))
    genotype = attach(search={"mode": "none"}).genotype()
    assert genotype is not None
    assert method.count_parameters(shape)["prefix"] == count_network(genotype)
    budget = build_method(parse_method(section({"mode": "random", "budget": 500})))
    assert budget.count_parameters(shape)["prefix"] == 500
    for seed in range(4):
        drawn = attach(search={"mode": "random", "budget": 500}, seed=seed).genotype()
        assert drawn is not None
        assert count_network(drawn) <= 500


def test_a_model_without_room_or_such_attention() -> None:
    model = tiny_task_model("bert", TINY_TASKS)
    model.family.positions = 66
    method = build_method(parse_method(section()))
    assert method.prompt_length == 4
    with pytest.raises(ModelError, match="4 vectors does not fit"):
        method.attach(model, AttachContext(0, lambda: None))
    # Refused in front of its attention, a model may still take a prompt.
    other = attach("deberta-v2", {"mode": "none"})
    assert scores(shaken(other)).isfinite().all()


def test_a_genotype_is_of_one_placement(tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    Genotype.fixed_mlp(PrefixShape(2, 4, 8), length=3, width=8).save(path)
    with pytest.raises(ConfigError, match="placement='input'"):
        attach(search={"genotype": path})
    with pytest.warns(UserWarning, match="placement: attention -> input"):
        made = attach(search={"genotype": path, "adapt": True})
    assert vectors(made).shape == (3, 32)


@pytest.mark.parametrize(
    "prefix", [{"start": "quiet"}, {"placement": "attention", "start": "vocabulary"}]
)
def test_starts_of_the_other_placement_are_refused(prefix: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ConfigError), match="not for this placement"):
        parse_method(section(**prefix))
