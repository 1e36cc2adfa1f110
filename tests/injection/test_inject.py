"""Attaching, setting, disabling, detaching; who is touched and who is not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModel

from peml.errors import InjectionError
from peml.injection.inject import attach_prefix, injection_of
from peml.prefix.prefix import Prefix
from peml.testing.models import (
    save_tiny_model,
    tiny_bert,
    tiny_llama,
    tiny_model,
    tiny_t5,
)
from tests.injection.common import SUPPORTED, inputs_for, random_prefix, real, with_random_prefix


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", SUPPORTED)
def test_model_is_the_same_without_a_prefix_and_after_detach(family: str, attention: str) -> None:
    model, inputs = tiny_model(family, attention=attention), inputs_for(family)
    with torch.no_grad():
        before = model(**inputs)[0]
        injection = attach_prefix(model)
        attached = model(**inputs)[0]
        with_random_prefix(injection)
        moved = model(**inputs)[0]
        with injection.disabled():
            disabled = model(**inputs)[0]
        again = model(**inputs)[0]
        injection.detach()
        after = model(**inputs)[0]
    assert torch.equal(before, attached)
    assert torch.equal(before, disabled)
    assert torch.equal(before, after)
    assert torch.equal(moved, again)
    assert (real(moved, inputs) - real(before, inputs)).abs().max() > 0.05
    assert model.config._attn_implementation == attention
    assert injection_of(model) is None


@pytest.mark.parametrize("family", SUPPORTED)
def test_eager_equals_sdpa_and_row_order_means_nothing(family: str) -> None:
    outputs: list[Tensor] = []
    for attention in ("sdpa", "eager", "eager"):
        model, inputs = tiny_model(family, attention=attention), inputs_for(family)
        injection = attach_prefix(model)
        prefix = random_prefix(injection.shape, length=5)
        if len(outputs) == 2:
            order = torch.tensor([3, 0, 4, 2, 1])
            prefix = Prefix(prefix.tensor[:, :, :, order], prefix.active)
        injection.set(prefix)
        with torch.no_grad():
            outputs.append(real(model(**inputs)[0], inputs))
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[1], outputs[2], atol=2e-5, rtol=1e-5)


def test_prefix_of_wrong_shape_is_refused_and_the_old_one_stays() -> None:
    injection = attach_prefix(tiny_llama())
    kept = with_random_prefix(injection)
    layers, kv_heads, head_dim = 2, 4, 8
    wrong = Prefix(torch.zeros(layers, 2, kv_heads, 3, head_dim), (True, True))
    with pytest.raises(InjectionError, match=r"\(2, 2, 4, 3, 8\)(.|\n)*\(2, 2, 2, prefix_length"):
        injection.set(wrong)
    assert injection.prefix is kept


def test_second_attach_and_use_after_detach_are_refused() -> None:
    model = tiny_bert()
    injection = attach_prefix(model)
    with pytest.raises(InjectionError, match="already"):
        attach_prefix(model)
    injection.detach()
    injection.detach()
    with pytest.raises(InjectionError, match="detached"):
        injection.set(None)
    assert injection_of(model) is None
    attach_prefix(model)


def test_two_models_do_not_interfere() -> None:
    one, two = tiny_llama(), tiny_llama()
    inputs = inputs_for("llama")
    first, second = attach_prefix(one), attach_prefix(two)
    with_random_prefix(first, seed=1)
    with torch.no_grad():
        plain = two(**inputs).logits
        with_prefix = one(**inputs).logits
        with_random_prefix(second, seed=2)
        first.detach()
        other = two(**inputs).logits
    assert not torch.allclose(plain, with_prefix)
    assert not torch.allclose(plain, other)
    assert not torch.allclose(with_prefix, other)
    with torch.no_grad():
        assert torch.equal(one(**inputs).logits, plain)


def test_a_prefix_is_never_left_out_without_a_word() -> None:
    model = tiny_model("llama")
    inputs = inputs_for("llama")
    injection = attach_prefix(model)
    with_random_prefix(injection, seed=1)
    copied = copy.deepcopy(model)
    model.set_attn_implementation("sdpa")
    with pytest.raises(InjectionError, match="has become 'sdpa' since the prefix was attached"):
        model(**inputs)
    with injection.disabled():
        model(**inputs)
    copied(**inputs)  # has a config of its own
    injection.set(None)
    model(**inputs)

    shared = tiny_model("llama")
    injection = attach_prefix(shared)
    with_random_prefix(injection, seed=1)
    type(shared)._from_config(shared.config, attn_implementation="eager")
    with pytest.raises(InjectionError, match="give each model a config object of its own"):
        shared(**inputs)
    injection.detach()
    shared(**inputs)


def test_inactive_layers_are_untouched() -> None:
    model, inputs = tiny_bert(), inputs_for("bert")
    injection = attach_prefix(model)
    tensor = random_prefix(injection.shape).tensor.requires_grad_()
    with torch.no_grad():
        plain = model(**inputs)[0]
        injection.set(Prefix(tensor, (False, False)))
        assert torch.equal(model(**inputs)[0], plain)
    injection.set(Prefix(tensor, (False, True)))
    output = model(**inputs, output_hidden_states=True)
    output[0].square().sum().backward()
    assert tensor.grad is not None
    assert tensor.grad[0].abs().max() == 0
    assert tensor.grad[1].abs().max() > 0
    injection.set(None)
    first_layer = model(**inputs, output_hidden_states=True).hidden_states[1]
    assert torch.equal(output.hidden_states[1], first_layer)


def test_prefix_of_no_rows_is_no_prefix() -> None:
    model, inputs = tiny_llama(), inputs_for("llama")
    injection = attach_prefix(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        injection.set(random_prefix(injection.shape, length=0))
        assert torch.equal(model(**inputs).logits, plain)


def test_cross_attention_gets_no_prefix() -> None:
    model = tiny_t5()
    injection = attach_prefix(model)
    names = [site.name for site in injection.sites]
    assert injection.shape.layers == 4
    assert not any("EncDecAttention" in name for name in names)
    assert [site.causal for site in injection.sites] == [False, False, True, True]


def test_copies_and_pickles_carry_a_prefix_of_their_own() -> None:
    model, inputs = tiny_llama(), inputs_for("llama")
    injection = attach_prefix(model)
    leaf = random_prefix(injection.shape).tensor.requires_grad_()
    injection.set(Prefix(leaf * 1.0, (True, True)))
    model(**inputs)  # fills what is remembered between layers
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        own = injection_of(twin)
        assert own is not None
        assert own is not injection
        assert own.model is twin
        with torch.no_grad():
            assert torch.equal(twin(**inputs).logits, model(**inputs).logits)
            own.set(None)
            assert not torch.allclose(twin(**inputs).logits, model(**inputs).logits)


def test_state_dict_and_saved_model_know_nothing_of_it(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save_tiny_model("bert", tmp_path / "a"))
    keys = list(model.state_dict())
    with_random_prefix(attach_prefix(model))
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path / "b")
    assert "peml" not in (tmp_path / "b" / "config.json").read_text()
    again = AutoModel.from_pretrained(tmp_path / "b")
    assert again.config._attn_implementation == "sdpa"


def test_lora_and_prefix_train_together() -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    injection = attach_prefix(model)
    tensor = random_prefix(injection.shape).tensor.requires_grad_()
    injection.set(Prefix(tensor, (True, True)))
    inputs = inputs_for("llama")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert tensor.grad is not None
    assert (tensor.grad.abs().amax(dim=(2, 3, 4)) > 0).all()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


def test_prefix_follows_the_models_dtype() -> None:
    model, inputs = tiny_llama().to(torch.bfloat16), inputs_for("llama")
    injection = attach_prefix(model)
    tensor = random_prefix(injection.shape).tensor.requires_grad_()
    injection.set(Prefix(tensor, (True, True)))
    output = model(**inputs).logits
    output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert tensor.grad is not None
    assert tensor.grad.dtype == torch.float32


def test_inference_mode_leaves_nothing_that_breaks_training() -> None:
    """T5's trainable position bias makes autograd save the causal mask."""
    model, inputs = tiny_t5(), inputs_for("t5")
    injection = attach_prefix(model)
    with_random_prefix(injection)
    with torch.inference_mode():
        first = model(**inputs).logits
    second = model(**inputs).logits
    second.sum().backward()
    torch.testing.assert_close(first.clone(), second.detach())


def test_a_mask_written_to_between_calls_is_padded_anew() -> None:
    model = tiny_llama()
    with_random_prefix(attach_prefix(model))
    ids = inputs_for("llama")["input_ids"]
    mask = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
        mask[:, :, 5:, 2] = False
        reused = model(input_ids=ids, attention_mask=mask).logits
        fresh = model(input_ids=ids, attention_mask=mask.clone()).logits
    assert torch.equal(reused, fresh)
