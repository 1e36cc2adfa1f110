"""Quiet keys: are they what they claim, and is the model left alone?"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection, attach_prefix
from peml.injection.quiet import measure_start
from peml.models.embedded import MINILM, embedded_model
from peml.prefix.prefix import Prefix, PrefixStart
from peml.testing.models import tiny_bert, tiny_llama, tiny_model, tiny_t5
from tests.injection.common import inputs_for, token_ids, with_random_prefix


def _queries(injection: PrefixInjection, model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []

    def note(layer: int, query: Tensor, *_: Tensor | None) -> None:
        seen.append(query)

    injection.observer = note
    with torch.no_grad():
        model(input_ids=ids)
    injection.observer = None
    return seen


def test_keys_are_the_least_squares_answer_to_real_queries() -> None:
    model, ids = tiny_llama(), token_ids(4, 16)
    injection = attach_prefix(model)
    start = measure_start(injection, lambda: model(input_ids=ids), quietness=3.0)
    for layer, query in enumerate(_queries(injection, model, ids)):
        scaling = injection.sites[layer].scaling
        for head in range(2):
            # Query heads 2h and 2h+1 share key head h.
            rows = scaling * query[:, 2 * head : 2 * head + 2].reshape(-1, 8).double()
            wanted = torch.linalg.lstsq(rows, torch.full((len(rows), 1), -3.0).double()).solution
            residual = (rows @ wanted + 3).square().mean()
            key = start.keys[layer, head].double()
            logits = rows @ key
            # A small ridge may cost a little; less than 1 % here.
            assert (logits + 3).square().mean() <= 1.01 * residual


def test_a_loud_start_knows_keys_as_good_as_absent() -> None:
    model, ids = tiny_llama(), token_ids(4, 16)
    injection = attach_prefix(model)

    def measure(quietness: float) -> PrefixStart:
        return measure_start(injection, lambda: model(input_ids=ids), quietness=quietness)

    loud, silent = measure(1.0), measure(8.0)
    assert loud.silent is not None
    assert torch.equal(loud.silent, silent.keys)
    assert silent.silent is measure(12.0).silent is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padding_is_left_out(family: str, attention: str) -> None:
    model = tiny_model(family, attention=attention)
    injection = attach_prefix(model)
    inputs = inputs_for(family)
    padded = measure_start(injection, lambda: model(**inputs))

    def one_by_one() -> None:
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            model(input_ids=ids[mask.bool()][None])

    alone = measure_start(injection, one_by_one)
    torch.testing.assert_close(padded.keys, alone.keys, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(padded.radius, alone.radius, atol=1e-4, rtol=1e-4)


def test_deterministic_and_bounded() -> None:
    model = tiny_bert()
    injection = attach_prefix(model)

    def run() -> None:
        model(input_ids=token_ids(4, 12))

    one, two = (measure_start(injection, run, radius=0.5) for _ in range(2))
    assert torch.equal(one.keys, two.keys)
    assert torch.equal(one.radius, two.radius)
    double = measure_start(injection, run, radius=1.0)
    torch.testing.assert_close(double.radius, 2 * one.radius)
    capped = measure_start(injection, run, max_tokens=10)
    first = measure_start(injection, lambda: model(input_ids=token_ids(4, 12)[:1]), max_tokens=10)
    torch.testing.assert_close(capped.keys, first.keys)
    assert not torch.allclose(capped.keys, double.keys)


def test_radius_is_the_median_norm_of_the_models_own_states() -> None:
    model, ids = tiny_llama(), token_ids(3, 9)
    injection = attach_prefix(model)
    values: list[Tensor] = []

    def note(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        values.append(value)

    measured = measure_start(injection, lambda: model(input_ids=ids))
    injection.observer = note
    model(input_ids=ids)
    for layer, value in enumerate(values):
        assert measured.radius[layer, 1].item() == pytest.approx(value.norm(dim=-1).median().item())


def test_prefix_is_off_while_measuring_and_back_after() -> None:
    model, inputs = tiny_llama(), inputs_for("llama")
    injection = attach_prefix(model)
    before = measure_start(injection, lambda: model(**inputs))
    prefix = with_random_prefix(injection)
    after = measure_start(injection, lambda: model(**inputs))
    assert torch.equal(before.keys, after.keys)
    assert injection.prefix is prefix
    assert injection.observer is None


def test_run_that_reaches_nothing_is_refused() -> None:
    model = tiny_t5()
    injection = attach_prefix(model)
    with pytest.raises(InjectionError, match="no real token"):
        measure_start(injection, lambda: None)
    ids = token_ids(1, 5)
    with pytest.raises(InjectionError, match=r"decoder.*\(2 of 4 layers\)"):
        measure_start(injection, lambda: model.encoder(input_ids=ids))
    assert injection.observer is None


@pytest.mark.minilm
def test_fresh_prefix_hardly_moves_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    sentences = importlib.import_module("sentences").SENTENCES
    folder = embedded_model(MINILM)
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fitted, held_out = (
        tokenizer(part, padding=True, return_tensors="pt")
        for part in (sentences[:24], sentences[24:])
    )
    injection = attach_prefix(model)
    start = measure_start(injection, lambda: model(**fitted))
    plain = _hidden(model, held_out)
    injection.set(_fresh(start))
    quiet = (_hidden(model, held_out) - plain).norm() / plain.norm()
    injection.set(_fresh(PrefixStart.zeros(injection.shape)))
    zeros = (_hidden(model, held_out) - plain).norm() / plain.norm()
    assert quiet < 0.02
    assert zeros > 0.1


def _fresh(start: PrefixStart, length: int = 16) -> Prefix:
    layers, kv_heads, head_dim = start.keys.shape
    tensor = torch.zeros(layers, 2, kv_heads, length, head_dim)
    tensor[:, 0] = start.keys[:, :, None]
    return Prefix(tensor, (True,) * layers)


@torch.no_grad()
def _hidden(model: PreTrainedModel, inputs: Any) -> Tensor:
    hidden: Tensor = model(**inputs)[0][inputs["attention_mask"].bool()]
    return hidden
