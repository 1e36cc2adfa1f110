"""Positions: what a model's files say of its longest text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import XLNetConfig, XLNetModel

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone, load_family
from peml.models.room import check_generation
from peml.testing.models import VOCABULARY, save_tiny_model, tiny_tokenizer
from tests.tasks.examples import generation, sentiment


def _settings(folder: Path, **values: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": str(folder), "max_length": 32} | values)


@pytest.mark.parametrize(
    ("name", "positions"),
    [("bert", 160), ("roberta", 159), ("gpt2", 256), ("opt", 256), ("bart", 160)],
)
def test_longer_than_the_positions_is_refused(name: str, positions: int, tmp_path: Path) -> None:
    save_tiny_model(name, tmp_path)
    with pytest.raises(ModelError, match=f"only {positions} positions"):
        load_family(_settings(tmp_path, max_length=positions + 1))
    family = load_family(_settings(tmp_path, max_length=positions))
    model = load_backbone(_settings(tmp_path, max_length=positions), family).model
    ids = torch.full((1, positions), 7)
    with torch.no_grad():
        model(input_ids=ids)  # the limit itself works


def test_generating_past_the_last_position_is_refused(tmp_path: Path) -> None:
    folder = str(save_tiny_model("gpt2", tmp_path / "gpt2", n_positions=64))
    family = load_family(ModelSettings(name=folder, max_length=60))
    check_generation(family, [generation()], max_new_tokens=4)
    check_generation(family, [sentiment()], max_new_tokens=5)
    with pytest.raises(ModelError, match="5 new tokens") as caught:
        check_generation(family, [generation()], max_new_tokens=5)
    assert generation().name in caught.value.problem
    rotary = load_family(ModelSettings(name=str(save_tiny_model("llama", tmp_path / "llama"))))
    check_generation(rotary, [generation()], max_new_tokens=10_000)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_rotary_and_relative_positions_stretch(name: str, tmp_path: Path) -> None:
    save_tiny_model(name, tmp_path)
    assert load_family(_settings(tmp_path, max_length=1000)).max_length == 1000


def test_a_model_that_says_minus_one_has_no_limit(tmp_path: Path) -> None:
    """XLNet's config says so; read as a limit, every row would be cut to a few tokens."""
    values = {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    XLNetModel(XLNetConfig(**values, pad_token_id=0)).save_pretrained(tmp_path)
    tiny_tokenizer("encoder").save_pretrained(tmp_path)
    family = load_family(_settings(tmp_path, family="encoder", max_length=None))
    assert (family.positions, family.max_length) == (None, 128)  # the tokenizer's
