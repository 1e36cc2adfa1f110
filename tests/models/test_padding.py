"""Encoders that read the padding behind a row."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import (
    BigBirdConfig,
    BigBirdModel,
    FNetConfig,
    FNetModel,
    SqueezeBertConfig,
    SqueezeBertModel,
    XmodConfig,
    XmodModel,
)

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone
from peml.models.padding import refuse_left_padding
from peml.testing.models import VOCABULARY, save_tiny_model, tiny_model, tiny_tokenizer


def test_an_encoder_that_mixes_padding_in_is_named(tmp_path: Path) -> None:
    config = FNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, intermediate_size=48
    )
    FNetModel(config).save_pretrained(tmp_path)
    tiny_tokenizer("encoder").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="depend on the length of the rows in its batch"):
        load_backbone(ModelSettings(name=str(tmp_path), family="encoder"))


def test_an_encoder_that_reads_no_texts_is_refused(tmp_path: Path) -> None:
    config = XmodConfig(
        **tiny_model("roberta").config.to_diff_dict() | {"languages": ["en_XX", "de_DE"]}
    )
    XmodModel(config).save_pretrained(tmp_path)
    tiny_tokenizer("encoder").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="can't read a short text: Input language unknown"):
        load_backbone(ModelSettings(name=str(tmp_path)))


def test_a_model_that_would_change_its_attention_has_full_attention_from_the_start(
    tmp_path: Path,
) -> None:
    config = BigBirdConfig(
        **tiny_model("bert").config.to_diff_dict() | {"block_size": 4, "num_random_blocks": 1}
    )
    BigBirdModel(config).save_pretrained(tmp_path / "one")
    tiny_tokenizer("encoder").save_pretrained(tmp_path / "one")
    ids = torch.arange(60)[None] + 5
    with pytest.warns(UserWarning, match="block-sparse attention is replaced by full attention"):
        model = load_backbone(ModelSettings(name=str(tmp_path / "one"))).model
    model.save_pretrained(tmp_path / "two")
    plain = BigBirdModel.from_pretrained(tmp_path / "two").eval()
    torch.testing.assert_close(
        model(input_ids=ids).last_hidden_state, plain(input_ids=ids).last_hidden_state
    )


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_others_load_without_a_word(family: str, dtype: str, tmp_path: Path) -> None:
    name = str(save_tiny_model(family, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(ModelSettings(name=name, dtype=dtype))


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "mamba", "t5", "gemma2"])
def test_decoders_that_follow_the_mask_generate(family: str) -> None:
    refuse_left_padding(tiny_model(family), tiny_tokenizer("causal"))


def test_a_decoder_that_counts_padding_as_positions_is_refused() -> None:
    model = tiny_model("gpt2")
    forward = model.transformer.forward
    model.transformer.forward = lambda *args, **given: forward(
        *args, **{name: value for name, value in given.items() if name != "position_ids"}
    )
    with pytest.raises(ModelError, match="padding in front of a row changes its answer"):
        refuse_left_padding(model, tiny_tokenizer("causal"))


def test_a_model_that_always_calls_its_pooler_loads(tmp_path: Path) -> None:
    config = SqueezeBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        **dict.fromkeys(["q_groups", "k_groups", "v_groups", "intermediate_groups"], 4),
        post_attention_groups=1,
        output_groups=4,
    )
    SqueezeBertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer("encoder").save_pretrained(tmp_path)
    backbone = load_backbone(ModelSettings(name=str(tmp_path)))
    assert not list(backbone.model.pooler.parameters())
