"""Start, dropout, decay and warm-up of a prefix, for every method that has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from peml.errors import ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.prefix.part import PrefixPart
from peml.methods.registry import build_method, parse_method
from peml.prefix.supernet import PrefixSupernet
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings

TEXT = "the old dog sleeps and the young cat runs home to the river"
_METHODS: dict[str, dict[str, Any]] = {
    "prefix-tuning": {"name": "prefix-tuning", "length": 4, "width": 8},
    "flat": {"name": "prefix-tuning", "network": "flat", "length": 4},
    "lora+prefix": {"name": "lora+prefix", "length": 4, "width": 8},
    "peml": {"name": "peml", "prefix": {"length": [2, 4], "width": 8, "cells": 1}},
    "peml, random": {
        "name": "peml",
        "prefix": {"length": 4, "width": 8, "cells": 1, "layer_gates": False},
        "search": {"mode": "random"},
    },
}


def attach(kind: str, tiny: str = "bert", **options: Any) -> AttachedModel:
    section = dict(_METHODS[kind])
    if "prefix" in section:
        section["prefix"] = section["prefix"] | options
    else:
        section |= options
    model = tiny_task_model(tiny, TINY_TASKS)

    def calibrate() -> None:
        with torch.no_grad():
            model(batch_of(model))

    return build_method(parse_method(section)).attach(model, AttachContext(0, calibrate)).eval()


def part(model: AttachedModel) -> PrefixPart:
    found = model.parts["prefix"]
    assert isinstance(found, PrefixPart)
    return found


def first(model: AttachedModel) -> Tensor:
    """Layer 0 of the whole prefix at its start, (2, kv_heads, length, head_dim)."""
    network = part(model).network
    if isinstance(network, PrefixSupernet):
        chosen = {"cell.0": "linear", "length": "4", "layer.0": "on", "layer.1": "on"}
        with torch.no_grad():
            first: Tensor = network(network.one_hot(chosen)).tensor[0]
        return first
    return part(model).yielded().tensor.detach()[0]


def own_keys(tiny: str) -> list[Tensor]:
    """Keys of layer 0 for the text, from the model's own cache or projection."""
    model = tiny_task_model(tiny, TINY_TASKS).eval()
    ids = torch.tensor([model.family.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        if tiny == "llama":
            cache = model.backbone(input_ids=ids, use_cache=True).past_key_values
            return [cache.layers[0].keys[0], cache.layers[0].values[0]]
        layer = model.backbone.encoder.layer[0].attention.self
        hidden = model.backbone.embeddings(input_ids=ids)
        split = (1, -1, layer.num_attention_heads, layer.attention_head_size)
        return [f(hidden).view(split).transpose(1, 2)[0] for f in (layer.key, layer.value)]


@pytest.mark.parametrize("tiny", ["bert", "llama"])
@pytest.mark.parametrize("kind", _METHODS)
def test_a_text_gives_the_models_own_keys_and_values(kind: str, tiny: str) -> None:
    model = attach(kind, tiny, start="text", text=TEXT)
    keys, values = own_keys(tiny)
    torch.testing.assert_close(first(model)[0], keys[:, :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first(model)[1], values[:, :4], atol=1e-5, rtol=1e-5)


def test_a_text_reaches_encoder_and_decoder() -> None:
    whole = part(attach("flat", "t5", start="text", text=TEXT)).yielded().tensor.detach()
    assert all(whole[layer].any() for layer in range(len(whole)))


@pytest.mark.parametrize("kind", _METHODS)
def test_a_quiet_start_is_one_key_and_a_text_is_not(kind: str) -> None:
    quiet, left_out = (first(attach(kind, start=start))[0] for start in ("quiet", None))
    assert torch.equal(quiet, left_out)
    assert torch.equal(quiet, quiet[:, :1].expand_as(quiet))
    assert quiet.any()
    text = first(attach(kind, start="text", text=TEXT))[0]
    assert (text - text.mean(1, keepdim=True)).norm(dim=-1).min() > 0.05


def test_a_text_that_is_too_short_and_a_start_without_text_are_refused() -> None:
    with pytest.raises(ModelError, match=r"has \d tokens, the prefix up to 4 positions"):
        attach("flat", start="text", text="a")
    for options in ({"start": "text"}, {"text": TEXT}):
        with pytest.raises(ValidationError, match="belong together"):
            type(parse_method(_METHODS["flat"])).model_validate(_METHODS["flat"] | options)


@pytest.mark.parametrize("kind", _METHODS)
def test_positions_drop_out_in_training_only(kind: str) -> None:
    model = attach(kind, dropout=0.5)
    model.prepare()
    longest = part(model).injection.prefix
    assert longest is not None
    assert longest.length == 4
    model.train()
    torch.manual_seed(0)
    lengths = set()
    for _ in range(30):
        model.prepare()
        prefix = part(model).injection.prefix
        assert prefix is not None
        lengths.add(prefix.length)
    assert lengths >= {1, 2, 3}
    model(batch_of(model.base)).loss.backward()


@pytest.mark.parametrize("kind", _METHODS)
def test_decay_and_warm_up_are_the_prefixs_own(kind: str) -> None:
    model = attach(kind, weight_decay=0.3, warmup=0.5)
    settings = TrainingSettings(weight_decay=0.01, warmup=0.1)
    groups = {
        group["name"]: group for group in build_optimizer(model.groups(), settings).param_groups
    }
    assert groups["prefix"]["weight_decay"] == 0.3
    assert groups["heads"]["weight_decay"] == 0.01
    plain = build_optimizer(attach(kind).groups(), settings).param_groups
    assert {g["weight_decay"] for g in plain if g["name"] == "prefix"} == {0.01}
