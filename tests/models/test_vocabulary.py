"""Tokenizers that don't go with their model: made to fit, or refused while loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone, load_family
from peml.testing.models import EOS, VOCABULARY, save_tiny_model, tiny_model, tiny_tokenizer

Change = Callable[[Any], object]


def _settings(folder: Path, **values: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": str(folder), "max_length": 32} | values)


def _changed(family: str, folder: Path, change: Change, **config: Any) -> Path:
    save_tiny_model(family, folder, **config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_tokens_beyond_the_embedding_are_named(family: str, tmp_path: Path) -> None:
    folder = _changed(family, tmp_path, lambda t: t.add_tokens([f"<|{n}|>" for n in range(7)]))
    with pytest.raises(ModelError) as caught:
        load_family(_settings(folder))
    problem = caught.value.problem
    assert f"<|0|> ({VOCABULARY}), <|1|> ({VOCABULARY + 1})" in problem
    assert "and 2 more" in problem
    assert f"below {VOCABULARY}" in caught.value.allowed
    assert "resize_token_embeddings" in caught.value.action


def test_embeddings_of_its_own_count_where_a_config_says_otherwise(tmp_path: Path) -> None:
    family = load_family(_settings(save_tiny_model("llama", tmp_path)))
    family.tokenizer.add_tokens(["<|late|>"])
    with pytest.raises(ModelError, match=r"no embedding for: <\|late\|>"):
        load_backbone(_settings(tmp_path), family)


def test_a_model_with_more_embeddings_than_tokens_is_fine(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, vocab_size=VOCABULARY + 64)
    assert load_backbone(_settings(folder)).model.config.vocab_size == VOCABULARY + 64


@pytest.mark.parametrize(("family", "instead"), [("llama", "</s>"), ("bert", "</s>")])
def test_padding_alone_beyond_the_embedding_is_replaced(
    family: str, instead: str, tmp_path: Path
) -> None:
    folder = _changed(
        family, tmp_path, lambda t: t.add_special_tokens({"pad_token": "[PAD]"}), eos_token_id=EOS
    )
    with pytest.warns(UserWarning, match=r"no embedding for its padding token \[PAD\]"):
        loaded = load_backbone(_settings(folder))
    tokenizer = loaded.family.tokenizer
    assert tokenizer.pad_token == instead
    ids = tokenizer(["a [PAD] b", "a"], padding=True, return_tensors="pt")["input_ids"]
    assert int(ids.max()) < VOCABULARY
    with torch.no_grad():
        loaded.model(input_ids=ids)
    tokenizer.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("a [PAD] b")["input_ids"] == tokenizer("a [PAD] b")["input_ids"]


def test_padding_beyond_is_refused_where_another_token_is_as_well(tmp_path: Path) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.add_tokens(["<|user|>"])

    with pytest.raises(ModelError, match=r"\[PAD\] \(384\), <\|user\|> \(385\)"):
        load_family(_settings(_changed("llama", tmp_path, change)))


@pytest.mark.parametrize("room", [0, 16])
def test_an_end_token_that_no_file_defines_is_refused(room: int, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, vocab_size=VOCABULARY + room)
    _edit(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    with pytest.raises(ModelError, match=r"<\|endoftext\|>.*vocabulary"):
        load_family(_settings(folder))


@pytest.mark.parametrize(("named", "taken"), [(EOS, "</s>"), ([9999, 4], "<mask>")])
def test_without_an_end_token_the_configs_is_taken(
    named: int | list[int], taken: str, tmp_path: Path
) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer.eos_token = None

    folder = _changed("llama", tmp_path, change)
    _edit(folder / "config.json", eos_token_id=named)
    tokenizer = load_family(_settings(folder)).tokenizer
    assert tokenizer.eos_token == taken


@pytest.mark.parametrize("named", [None, 9999])
def test_a_model_that_writes_needs_an_end_token(named: int | None, tmp_path: Path) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer.eos_token = None
        tokenizer.bos_token = None

    folder = _changed("llama", tmp_path / "llama", change)
    _edit(folder / "config.json", eos_token_id=named)
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_family(_settings(folder))
    encoder = _changed("bert", tmp_path / "bert", change)
    _edit(encoder / "config.json", eos_token_id=named)
    assert load_family(_settings(encoder)).tokenizer.eos_token is None


def test_texts_are_cut_at_their_end_whatever_the_tokenizer_says(tmp_path: Path) -> None:
    def cut_left(tokenizer: Any) -> None:
        tokenizer.truncation_side = "left"

    family = load_family(_settings(_changed("bert", tmp_path, cut_left)))
    assert family.tokenizer.truncation_side == "right"


@pytest.mark.parametrize("types", [0, 1])
def test_segments_that_a_model_has_no_rows_for_are_left_out(types: int, tmp_path: Path) -> None:
    tiny_model("roberta", type_vocab_size=max(types, 1)).save_pretrained(tmp_path)
    tiny_tokenizer("encoder").save_pretrained(tmp_path)
    _edit(tmp_path / "config.json", type_vocab_size=types)
    family = load_family(_settings(tmp_path))
    assert "token_type_ids" not in family.tokenizer("one", "two")
    two = save_tiny_model("bert", tmp_path / "bert")
    assert "token_type_ids" in load_family(_settings(two)).tokenizer("one", "two")


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_a_text_has_the_same_tokens_each_time(family: str, tmp_path: Path) -> None:
    save_tiny_model(family, tmp_path)
    expected = load_family(_settings(tmp_path))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    _edit(tmp_path / "tokenizer.json", model=content["model"] | {"dropout": 0.9})
    with pytest.warns(UserWarning, match=r"dropout 0\.9 in tokenizer\.json"):
        loaded = load_family(_settings(tmp_path))
    text = "the quick brown fox jumps over the lazy dog"
    assert loaded.tokenizer(text).input_ids == expected.tokenizer(text).input_ids
    assert loaded.tokenizer_rules == expected.tokenizer_rules
