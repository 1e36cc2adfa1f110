"""Generation with a cache, and gradients with recomputation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from peml.injection.inject import attach_prefix
from peml.models.loading import enable_checkpointing
from peml.prefix.prefix import Prefix
from peml.testing.models import tiny_llama, tiny_model
from tests.injection.common import CAUSAL, inputs_for, random_prefix, token_ids, with_random_prefix


def _prompt(family: str) -> dict[str, Tensor]:
    ids, mask = token_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    padding = slice(0, 3) if family in CAUSAL else slice(6, 9)
    mask[1, padding] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _generate(model: PreTrainedModel, **options: Any) -> Any:
    return model.generate(
        **_prompt(model.config.model_type),
        max_new_tokens=10,
        min_new_tokens=10,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


@pytest.mark.parametrize("family", [*CAUSAL, "gemma2", "t5", "bart"])
def test_cached_generation_equals_recomputation(family: str) -> None:
    model = tiny_model(family)
    with_random_prefix(attach_prefix(model))
    cached = _generate(model, use_cache=True)
    recomputed = _generate(model, use_cache=False)
    assert torch.equal(cached.sequences, recomputed.sequences)
    for one, two in zip(cached.logits, recomputed.logits, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-5)


def test_cache_holds_real_tokens_only() -> None:
    model = tiny_llama()
    with_random_prefix(attach_prefix(model))
    out = _generate(model, use_cache=True)
    assert out.past_key_values.get_seq_length() == out.sequences.shape[1] - 1


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_static_cache(family: str) -> None:
    model = tiny_model(family)
    with_random_prefix(attach_prefix(model))
    for rows in (1, 2):
        inputs = {name: value[:rows] for name, value in _prompt("llama").items()}
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
        static = model.generate(**inputs, **options, cache_implementation="static")
        dynamic = model.generate(**inputs, **options)
        assert torch.equal(static, dynamic)


def test_prompt_in_two_pieces_equals_the_prompt_at_once() -> None:
    model = tiny_llama()
    with_random_prefix(attach_prefix(model))
    ids = token_ids(2, 11)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :6], use_cache=True)
        second = model(input_ids=ids[:, 6:], past_key_values=first.past_key_values)
    pieces = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral", "bert", "t5"])
def test_gradient_checkpointing_changes_no_gradient(
    family: str, frozen: bool, attention: str
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family, attention=attention).train().requires_grad_(not frozen)
        if checkpointing:
            enable_checkpointing(model)
        injection = attach_prefix(model)
        assert model.training
        tensor = random_prefix(injection.shape).tensor.requires_grad_()
        injection.set(Prefix(tensor, (True,) * injection.shape.layers))
        torch.manual_seed(0)
        model(**inputs_for(family))[0].square().mean().backward()
        assert tensor.grad is not None
        gradients.append(tensor.grad)
    assert (gradients[0].abs().amax(dim=(2, 3, 4)) > 0).all(), "a layer gets no gradient"
    if family == "t5":
        # Cross-attention layers add up their gradients of the encoder in another order.
        size = gradients[0].abs().amax(dim=(1, 2, 3, 4), keepdim=True)
        torch.testing.assert_close(gradients[0] / size, gradients[1] / size, atol=1e-5, rtol=0)
    else:
        assert torch.equal(gradients[0], gradients[1])


def test_gradient_is_that_of_finite_differences() -> None:
    # Llama's normalisation computes in float32 whatever the model is in.
    model = tiny_model("gpt2").double()
    injection = attach_prefix(model)
    ids = token_ids(1, 4)

    def loss(tensor: Tensor) -> Tensor:
        injection.set(Prefix(tensor, (True, True)))
        loss: Tensor = model(input_ids=ids).logits.square().mean()
        return loss

    start = random_prefix(injection.shape, length=1).tensor.double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (start,), fast_mode=True)
