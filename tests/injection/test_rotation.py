"""What can be turned into PEFT's prefix and what is refused."""

from __future__ import annotations

import pytest
import torch

from peml.errors import InjectionError
from peml.injection.inject import attach_prefix
from peml.injection.rotation import find_rotary, peft_prompt_embeddings, rotate_keys
from peml.testing.models import tiny_bert, tiny_llama, tiny_mistral, tiny_model, tiny_t5
from tests.injection.common import random_prefix, token_ids, with_random_prefix


def test_rotation_by_zero_and_by_parts() -> None:
    model = tiny_llama()
    site = attach_prefix(model).sites[0]
    keys = torch.randn(2, 3, 8)
    torch.testing.assert_close(rotate_keys(model, site, keys, 0), keys)
    twice = rotate_keys(model, site, rotate_keys(model, site, keys, 2), 3)
    torch.testing.assert_close(twice, rotate_keys(model, site, keys, 5))
    torch.testing.assert_close(twice.norm(dim=-1), keys.norm(dim=-1))


def test_stretched_frequencies_keep_the_norm() -> None:
    """Yarn stretches queries and keys; stored keys are stretched already."""
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    rope["original_max_position_embeddings"] = 64
    model = tiny_llama(rope_parameters=rope)
    site = attach_prefix(model).sites[0]
    rotary = find_rotary(model)
    assert rotary is not None
    assert rotary.attention_scaling != 1.0
    keys = torch.randn(2, 3, 8)
    rotated = rotate_keys(model, site, keys, 5)
    torch.testing.assert_close(rotated.norm(dim=-1), keys.norm(dim=-1))


def test_only_models_with_inverse_frequencies_are_rotary() -> None:
    assert find_rotary(tiny_llama()) is not None
    assert find_rotary(tiny_bert()) is None
    assert find_rotary(tiny_t5()) is None


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mistral", "sliding window"),
        ("bert", "decoders only"),
        ("t5", "decoders only"),
        ("gpt2", "not rotary"),
    ],
)
def test_what_peft_cannot_express_is_refused(family: str, reason: str) -> None:
    injection = attach_prefix(tiny_model(family))
    with pytest.raises(InjectionError, match=reason):
        peft_prompt_embeddings(injection, random_prefix(injection.shape))


def test_a_layer_without_positions_keeps_its_keys() -> None:
    """Llama 4 and SmolLM3 have such layers; told by what the model does, not by its config."""
    injection = attach_prefix(tiny_model("smollm3"))
    prefix = with_random_prefix(injection)
    rows = peft_prompt_embeddings(injection, prefix)
    keys = rows.view(prefix.length, 2, 2, *prefix.tensor.shape[2:3], -1)[:, :, 0].transpose(0, 1)
    ours = prefix.tensor[:, 0].transpose(1, 2)
    assert (keys[0] - ours[0]).abs().max() > 0.1
    assert torch.equal(keys[1], ours[1])
    assert injection.prefix is prefix
    assert injection.observer is None


def test_skipped_layers_are_refused() -> None:
    injection = attach_prefix(tiny_llama())
    prefix = random_prefix(injection.shape, active=(True, False))
    with pytest.raises(InjectionError, match=r"layers\.1\.self_attn has no prefix"):
        peft_prompt_embeddings(injection, prefix)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_texts_length_are_refused(kind: str) -> None:
    """Also where the prefix itself is far from the length at which they do."""
    rope: dict[str, object] = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    rope["original_max_position_embeddings"] = 64
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = tiny_llama(rope_parameters=rope)
    injection = attach_prefix(model)
    ids = token_ids(1, 9)
    before = model(input_ids=ids).logits
    with pytest.raises(InjectionError, match="change with the length of the text"):
        peft_prompt_embeddings(injection, random_prefix(injection.shape))
    assert torch.equal(model(input_ids=ids).logits, before), "the model's own module was changed"


def test_positions_that_do_not_turn_queries_and_keys_alike_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_llama()
    injection = attach_prefix(model)
    scope = "transformers.models.llama.modeling_llama.apply_rotary_pos_emb"
    monkeypatch.setattr(scope, lambda q, k, cos, sin: (q * cos, k * cos))
    with pytest.raises(InjectionError, match="changes the logits"):
        peft_prompt_embeddings(injection, random_prefix(injection.shape))


def test_the_prefix_itself_is_not_written_to() -> None:
    model = tiny_llama()
    injection = attach_prefix(model)
    prefix = with_random_prefix(injection)
    before = prefix.tensor.clone()
    peft_prompt_embeddings(injection, prefix)
    assert torch.equal(prefix.tensor, before)


def test_window_is_known_even_where_it_is_longer_than_the_text() -> None:
    model = tiny_mistral(sliding_window=4096)
    injection = attach_prefix(model)
    with_random_prefix(injection)
    model(input_ids=token_ids(1, 6))
    with pytest.raises(InjectionError, match="sliding window"):
        peft_prompt_embeddings(injection, random_prefix(injection.shape))
