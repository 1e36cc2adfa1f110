"""The GGUF file of a Llama: what it holds, and what is refused because llama.cpp would differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from gguf import GGUFReader

from peml.errors import RunError
from peml.export import export_model, gguf
from peml.testing import save_tiny_model
from tests.export.trained import run_of

pytestmark = pytest.mark.usefixtures("one_process")

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_LLAMA3 = {
    "type": "Split",
    "pattern": {"Regex": gguf._LLAMA3},
    "behavior": "Isolated",
    "invert": False,
}


def _changed(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A base model with another config or tokenizer."""
    path = save_tiny_model("llama", folder / "llama") / file
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _read(run: Path, out: Path) -> GGUFReader:
    export_model(run, out, "gguf")
    return GGUFReader(out / "model.gguf")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_keep_their_type_and_vectors_are_float32(tmp_path: Path, dtype: str) -> None:
    found = _read(run_of("llama", "lora", tmp_path, dtype=dtype), tmp_path / "out")
    matrix = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in found.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == matrix
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"


def test_the_tokenizer_is_the_models(tmp_path: Path) -> None:
    run = run_of("llama", "lora", tmp_path)
    fields = _read(run, tmp_path / "out").fields
    said = json.loads((tmp_path / "llama" / "tokenizer.json").read_text(encoding="utf-8"))
    texts = sorted(said["model"]["vocab"], key=said["model"]["vocab"].__getitem__)
    assert fields["tokenizer.ggml.tokens"].contents() == texts
    pairs = [" ".join(pair) for pair in said["model"]["merges"]]
    assert fields["tokenizer.ggml.merges"].contents() == pairs
    special = {each["id"] for each in said["added_tokens"]}
    types = fields["tokenizer.ggml.token_type"].contents()
    assert {number for number, kind in enumerate(types) if kind == 3} == special
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"


def _ending(run: Path, out: Path, stops: list[int]) -> GGUFReader:
    """The GGUF file of a model with these end tokens in its generation config."""
    load = gguf.GgufExport.write_model

    def write(export: Any, folder: Path, model: Any) -> None:
        model.backbone.generation_config.eos_token_id = stops
        load(export, folder, model)

    with mock.patch.object(gguf.GgufExport, "write_model", write):
        return _read(run, out)


def test_all_tokens_that_end_a_text_are_named(tmp_path: Path) -> None:
    run = run_of("llama", "lora", tmp_path)
    fields = _ending(run, tmp_path / "out", [2, 5]).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 5
    with pytest.raises(RunError, match="4 tokens end a text"):
        _ending(run, tmp_path / "more", [2, 5, 6, 7])


@pytest.mark.parametrize(
    ("steps", "whole", "name"),
    [
        ([_DIGITS, _BYTES], False, "smollm"),
        ([_LLAMA3, {**_BYTES, "use_regex": False}], True, "llama-bpe"),
    ],
)
def test_llama_cpps_name_for_a_split(
    tmp_path: Path, steps: list[dict[str, Any]], whole: bool, name: str
) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        tokenizer["model"]["ignore_merges"] = whole

    _changed(tmp_path, "tokenizer.json", change)
    fields = _read(run_of("llama", "lora", tmp_path), tmp_path / "out").fields
    assert fields["tokenizer.ggml.pre"].contents() == name


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(pre_tokenizer={**_BYTES, "add_prefix_space": True}),
        lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
        lambda t: t.update(normalizer={"type": "NFC"}),
        lambda t: t["model"].update(ignore_merges=True),
        lambda t: t["model"].update(byte_fallback=True),
        lambda t: t["added_tokens"][0].update(lstrip=True),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    _changed(tmp_path, "tokenizer.json", change)
    with pytest.raises(RunError, match=r"llama\.cpp would read texts as other tokens"):
        export_model(run_of("llama", "lora", tmp_path), tmp_path / "out", "gguf")


@pytest.mark.parametrize(
    ("base", "method", "said"),
    [
        ("gpt2", "lora", "model_type 'gpt2'"),
        ("gemma", "lora", "model_type 'gemma"),
        ("llama", "lora+prefix", "has a prefix"),
        ("llama", "prompt-tuning", "has a prompt"),
        ("llama", "mtl-lora", "separate weights for each task"),
        ("bert", "lora", "family 'encoder'"),
    ],
)
def test_a_model_that_is_no_merged_llama_is_refused(
    tmp_path: Path, base: str, method: str, said: str
) -> None:
    with pytest.raises(RunError, match=said):
        export_model(run_of(base, method, tmp_path), tmp_path / "out", "gguf")


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    scaled = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
    _changed(tmp_path, "config.json", lambda config: config.update(rope_parameters=scaled))
    with pytest.raises(RunError, match="rope_type 'linear'"):
        export_model(run_of("llama", "lora", tmp_path), tmp_path / "out", "gguf")


def test_rows_in_transformers_order_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(backbone: torch.nn.Module) -> Any:
        return ((name, p.detach()) for name, p in backbone.named_parameters())

    monkeypatch.setattr(gguf, "_tensors", plain)
    with pytest.raises(RunError, match="logits differ"):
        export_model(run_of("llama", "lora", tmp_path), tmp_path / "out", "gguf")


def test_a_token_that_is_added_to_every_text_is_refused(tmp_path: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        added = tokenizer["added_tokens"][0]
        text, known = added["content"], [added["id"]]
        single = [
            {"SpecialToken": {"id": text, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
        special = {text: {"id": text, "ids": known * 2, "tokens": [text] * 2}}
        parts = {"single": single, "pair": pair, "special_tokens": special}
        tokenizer["post_processor"] = {"type": "TemplateProcessing", **parts}

    _changed(tmp_path, "tokenizer.json", change)
    with pytest.raises(RunError, match="adds tokens that a GGUF file can't name"):
        export_model(run_of("llama", "lora", tmp_path), tmp_path / "out", "gguf")
