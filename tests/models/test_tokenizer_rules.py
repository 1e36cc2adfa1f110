"""The checksum of a tokenizer covers all that decides how it tokenises."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CTRLTokenizer

from peml.models import ModelSettings
from peml.models.reading import load_family
from peml.testing import save_tiny_model, tiny_model

_MERGES = ("g o\ngo o\ngoo d</w>\n", "f i\n")


def _written_in_python(folder: Path, merges: str) -> Path:
    """A tiny GPT-2 with a tokenizer without a Rust backend; its vocabulary holds no merges."""
    tiny_model("gpt2").save_pretrained(folder)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<unk>", "</s>", "<pad>", *letters, *(f"{letter}@@" for letter in letters)]
    tokens += ["go@@", "goo@@", "good", "fi@@"]
    vocabulary, rules = folder / "voc.json", folder / "rules.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    rules.write_text(f"#version: 0.2\n{merges}")
    CTRLTokenizer(
        str(vocabulary), str(rules), unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def _rules(folder: Path) -> str:
    return load_family(ModelSettings(name=str(folder))).tokenizer_rules


def test_other_merges_are_another_tokenizer(tmp_path: Path) -> None:
    first, other = (_written_in_python(tmp_path / merges[:1], merges) for merges in _MERGES)
    same = _written_in_python(tmp_path / "same", _MERGES[0])
    (same / "chat_template.jinja").write_text("no rule of texts")
    assert _rules(first) == _rules(same)
    assert _rules(first) != _rules(other)


def test_reading_special_tokens_as_texts_is_another_tokenizer(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path)
    before = _rules(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "split_special_tokens": True}))
    assert _rules(folder) != before
