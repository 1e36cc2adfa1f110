"""The tiny models other tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from peml.testing.models import TINY_FAMILIES, save_tiny_model, tiny_llama, tiny_model


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "gpt2"])
def test_saved_folder_loads_and_runs(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = dict(tokenizer(["yes", "the fox is ünïcode"], padding=True, return_tensors="pt"))
    if family == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model(**inputs)[0]).all()
    text = "yes ünïcödé <- x 42"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer) == model.config.vocab_size
    for token in ("pad", "bos", "eos"):
        ours = getattr(tokenizer, f"{token}_token_id")
        assert ours is not None
        assert ours == getattr(model.config, f"{token}_token_id")


def test_pairs_have_segment_ids(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model("bert", tmp_path))
    row = tokenizer("a", "b")
    assert row.token_type_ids[0] == 0
    assert row.token_type_ids[-1] == 1


@pytest.mark.parametrize("family", sorted(TINY_FAMILIES))
def test_same_seed_same_weights_and_the_global_generator_rests(family: str) -> None:
    before = torch.get_rng_state()
    one, two, other = (tiny_model(family, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not one.training
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_config_values_replace_the_tiny_ones() -> None:
    model = tiny_llama(num_hidden_layers=3, attention="eager")
    assert len(model.model.layers) == 3
    assert model.config._attn_implementation == "eager"
