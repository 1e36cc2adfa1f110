"""Attention in training on a CPU: the same numbers as torch's, in less time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peml.injection import shared, training
from peml.injection.probe import in_eval_mode, unwrap
from peml.injection.training import fast_attention
from peml.testing import tiny_model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that PEML's attention was called with."""
    counted: list[int] = []
    attend = shared.attend_shared

    def counting(query: Tensor, *given: Any, **named: Any) -> Tensor:
        counted.append(len(query))
        return attend(query, *given, **named)

    monkeypatch.setattr("peml.injection.attention.attend_shared", counting)
    return counted


def _pass(model: nn.Module, padded: bool) -> list[Tensor]:
    """Hidden states under bf16 autocast, and the gradients of all weights in attention."""
    body = unwrap(model).base_model
    ids = torch.arange(4 * 9).view(4, 9) % 90 + 5
    mask = torch.ones_like(ids)
    mask[1:3, 5:] = 0
    given: dict[str, Any] = {"attention_mask": mask} if padded else {}
    if body.config.model_type != "bert":
        given["use_cache"] = False
    with torch.autocast("cpu", torch.bfloat16):
        states = body(input_ids=ids, **given).last_hidden_state
    real = states[mask.bool()] if padded else states
    weight = torch.linspace(-1, 1, real.numel()).view(real.shape)
    own = [p for name, p in model.named_parameters() if "attention" in name or "attn" in name]
    gradients = torch.autograd.grad((real.float() * weight).sum(), own, allow_unused=True)
    return [real.detach().float(), torch.cat([g.flatten() for g in gradients if g is not None])]


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2", "mistral"])
@pytest.mark.parametrize("padded", [False, True])
def test_bfloat16_has_torchs_output_and_gradients(
    kind: Any, padded: bool, calls: list[int]
) -> None:
    model = tiny_model(kind)
    with in_eval_mode(model):  # no dropout
        theirs = _pass(model, padded)
        assert not calls
        with fast_attention(model):
            ours = _pass(model, padded)
            layers = unwrap(model).config.num_hidden_layers
            assert calls == [4] * layers
            with torch.no_grad():
                unwrap(model).base_model(input_ids=torch.ones(2, 4, dtype=torch.int64))
            assert len(calls) == layers
    assert unwrap(model).config._attn_implementation == "sdpa"
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).norm() <= 0.02 * reference.norm() + 1e-6


def test_float32_is_left_to_torch_but_for_dropout(calls: list[int]) -> None:
    model = tiny_model("bert")
    ids = torch.arange(12).view(2, 6) + 5
    with fast_attention(model):
        unwrap(model).base_model(input_ids=ids)
        assert not calls
        model.train()
        unwrap(model).base_model(input_ids=ids)
    assert calls == [2] * unwrap(model).config.num_hidden_layers


def test_a_model_whose_output_changes_keeps_its_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(training, "_output", lambda model: torch.rand(3))
    with fast_attention(model):
        assert unwrap(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["t5", "gemma2"])
def test_other_models_are_left_alone(kind: Any) -> None:
    model = tiny_model(kind)
    before = model.config._attn_implementation
    with fast_attention(model):
        assert model.config._attn_implementation == before


def test_a_model_of_several_implementations_keeps_each() -> None:
    model = tiny_model("llama", head="ForCausalLM")
    body = unwrap(model).base_model
    body.config = copy.deepcopy(body.config)
    body.config._attn_implementation = "eager"
    with fast_attention(model):
        assert body.config._attn_implementation == "eager"
    assert body.config._attn_implementation == "eager"
    assert unwrap(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("error", [AttributeError, KeyError, RuntimeError])
def test_a_model_that_cant_read_the_rows_of_the_test_trains_as_it_is(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: nn.Module) -> Tensor:
        raise error("no rows like these")

    model = tiny_model("llama")
    monkeypatch.setattr(training, "_output", fail)
    with fast_attention(model):
        assert unwrap(model).config._attn_implementation == "sdpa"
