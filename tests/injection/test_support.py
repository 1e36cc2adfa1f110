"""The probe, and the models it makes us refuse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LongT5Config, LongT5ForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peml.errors import InjectionError
from peml.injection.inject import attach_prefix
from peml.injection.probe import probe
from peml.injection.support import check_support
from peml.testing.models import tiny_llama, tiny_mistral, tiny_model, tiny_t5
from tests.injection.common import inputs_for, with_random_prefix


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sites_in_call_order(attention: str) -> None:
    sites = probe(tiny_model("bart", attention=attention))
    assert [(site.kind, site.causal) for site in sites] == [
        ("self", False),
        ("self", False),
        ("self", True),
        ("cross", False),
        ("self", True),
        ("cross", False),
    ]
    assert sites[2].name == "model.decoder.layers.0.self_attn"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_site_knows(attention: str) -> None:
    site = probe(tiny_mistral(attention=attention))[1]
    assert (site.query_heads, site.kv_heads, site.head_dim) == (4, 2, 8)
    assert (site.causal, site.sliding_window) == (True, 6)
    assert site.scaling == pytest.approx(8**-0.5)
    assert probe(tiny_t5(attention=attention))[0].scaling == 1.0
    windows = [s.sliding_window for s in probe(tiny_model("gemma2"))]
    assert windows == [8, None]


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("bart", "ForSequenceClassification"),
        ("t5", "EncoderModel"),
        ("gpt2", "ForSequenceClassification"),
        ("llama", "Model"),
    ],
)
def test_any_head_can_be_probed(family: str, head: str) -> None:
    support = check_support(tiny_model(family, head=head))
    assert support.ok, support.reason


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_llama().train()
    model.model.layers[0].eval()
    random = torch.get_rng_state()
    probe(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert not model.model.layers[0].mlp.training
    assert model.model.layers[1].mlp.training


def test_an_attached_model_can_be_probed() -> None:
    model, inputs = tiny_llama(), inputs_for("llama")
    with_random_prefix(attach_prefix(model))
    with torch.no_grad():
        before = model(**inputs).logits
        support = check_support(model)
        assert torch.equal(model(**inputs).logits, before)
    assert support.ok
    assert support.implementation == "sdpa"
    assert model.config._attn_implementation == "peml_sdpa"


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("deberta-v2", "attention interface"),
        ("bloom", "attention interface"),
        ("falcon", "attention interface"),
        ("mamba", "made no attention call"),
    ],
)
def test_models_outside_the_interface_are_refused(family: str, reason: str) -> None:
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    support = check_support(model)
    assert not support.ok
    assert reason in support.reason
    with pytest.raises(InjectionError, match=reason):
        attach_prefix(model)
    assert model.config._attn_implementation in ("eager", "sdpa")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_other_implementations_are_refused() -> None:
    model = tiny_llama()
    model.config._attn_implementation = "flex_attention"
    support = check_support(model)
    assert not support.ok
    assert "'flex_attention'" in support.reason
    assert "set_attn_implementation('sdpa')" in support.action


def test_layers_of_different_shape_are_refused() -> None:
    model = tiny_llama()
    other = tiny_llama(num_key_value_heads=4).model.layers[1].self_attn
    other.config = model.config
    model.model.layers[1].self_attn = other
    support = check_support(model)
    assert not support.ok
    assert "differ" in support.reason
    assert "(2 x 8, 4 x 8)" in support.reason


def test_modules_with_a_config_of_their_own_are_refused() -> None:
    """They would attend as before, without the prefix and without a word."""
    model = tiny_llama()
    model.model.layers[1].self_attn = tiny_llama().model.layers[1].self_attn
    support = check_support(model)
    assert not support.ok
    assert "model.layers.1.self_attn" in support.reason
    assert model.config._attn_implementation == "sdpa"


def test_an_encoder_outside_the_interface_is_refused() -> None:
    """The decoder alone would get the prefix."""
    config = LongT5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    support = check_support(LongT5ForConditionalGeneration(config))
    assert not support.ok
    assert "the encoder of LongT5" in support.reason


def test_keys_of_several_tokens_are_refused() -> None:
    """As in models that compress the tokens before."""
    model = tiny_llama()
    attention = model.model.layers[1].self_attn
    attention.k_proj.register_forward_hook(lambda *given: given[2][:, ::2])
    attention.v_proj.register_forward_hook(lambda *given: given[2][:, ::2])
    attention.forward = partial(_without_positions, attention)
    support = check_support(model)
    assert not support.ok
    assert "model.layers.1.self_attn: a key doesn't stand for one token" in support.reason


def _without_positions(attention: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    def heads(layer: nn.Module) -> Tensor:
        states: Tensor = layer(hidden_states).unflatten(-1, (-1, 8)).transpose(1, 2)
        return states

    interface = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    states = heads(attention.q_proj), heads(attention.k_proj), heads(attention.v_proj)
    output, _ = interface(attention, *states, None, scaling=1.0, dropout=0.0)
    return attention.o_proj(output.flatten(2)), None


def test_unknown_per_key_inputs_are_refused() -> None:
    model = tiny_llama()
    attention = model.model.layers[0].self_attn
    forward = attention.forward

    def with_alibi(*args: Any, **kwargs: Any) -> Any:
        length = kwargs["hidden_states"].shape[1]
        return forward(*args, **kwargs, alibi=torch.zeros(1, 4, length, length))

    attention.forward = with_alibi
    support = check_support(model)
    assert not support.ok
    assert "alibi" in support.reason


def test_not_a_transformers_model() -> None:
    support = check_support(nn.Linear(2, 2))
    assert not support.ok
    assert "Linear" in support.reason
    with pytest.raises(InjectionError, match="Linear"):
        attach_prefix(nn.Linear(2, 2))


def test_meta_device_is_refused_with_the_reason() -> None:
    support = check_support(tiny_llama().to("meta"))
    assert not support.ok
    assert "load its weights" in support.action


def test_shared_layers_are_one_layer() -> None:
    model = tiny_llama()
    model.model.layers[1] = model.model.layers[0]
    injection = attach_prefix(model)
    assert injection.shape.layers == 1
    prefix = with_random_prefix(injection)
    seen = list(_calls(injection, model))
    assert seen == [0, 0]
    assert prefix.length == 4


def _calls(injection: Any, model: Any) -> Iterator[int]:
    calls: list[int] = []

    def note(layer: int, *_: Tensor | None) -> None:
        calls.append(layer)

    injection.observer = note
    with torch.no_grad():
        model(**inputs_for("llama"), use_cache=False)
    yield from calls
