"""Weight files that say two things, or hold packed numbers, are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone
from peml.testing.models import save_tiny_model

_KEY = "model.layers.0.self_attn.q_proj.weight"
_OWNER = _KEY.removesuffix("weight")
_SINGLE = "model.safetensors"
Weights = dict[str, Tensor]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "llama")


def _load(folder: Path) -> None:
    load_backbone(ModelSettings(name=str(folder), max_length=32))


def _shard(folder: Path, *, factor: float) -> list[Path]:
    """Saves the model once more, in several files; Transformers leaves the single one there."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    model.save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_beside_an_older_single_file_are_refused_if_they_differ(llama: Path) -> None:
    _shard(llama, factor=2)
    with pytest.raises(ModelError, match=r"two sets of weights that differ: model\.safetensors"):
        _load(llama)
    (llama / _SINGLE).unlink()
    _load(llama)


def test_shards_beside_an_equal_single_file_are_fine(llama: Path) -> None:
    _shard(llama, factor=1)
    _load(llama)


def test_a_weight_in_two_shards_is_refused_if_they_differ(llama: Path) -> None:
    first, *_, last = _shard(llama, factor=1)
    (llama / _SINGLE).unlink()
    name, value = next(iter(load_file(first).items()))
    for factor in (1, 2):
        save_file(load_file(last) | {name: value * factor}, last, {"format": "pt"})
        if factor == 1:
            _load(llama)
    with pytest.raises(ModelError, match="hold a weight twice, with different values"):
        _load(llama)


def test_a_weight_with_and_without_the_models_prefix_is_refused(llama: Path) -> None:
    weights = load_file(llama / _SINGLE)
    weights[_KEY.removeprefix("model.")] = weights[_KEY] * 2
    save_file(weights, llama / _SINGLE, {"format": "pt"})
    with pytest.raises(ModelError, match="hold a weight twice"):
        _load(llama)


def _float8(weights: Weights) -> Weights:
    scale = weights[_KEY].abs().max() / 448
    return {
        _KEY: (weights[_KEY] / scale).to(torch.float8_e4m3fn),
        f"{_KEY}_scale_inv": scale.reshape(1, 1),
    }


def _int8(weights: Weights) -> Weights:
    return {_KEY: (weights[_KEY] * 100).round().to(torch.int8)}


def _int8_with_scales(weights: Weights) -> Weights:
    return _int8(weights) | {f"{_OWNER}SCB": torch.ones(len(weights[_KEY]))}


@pytest.mark.parametrize(
    ("packed", "problem"),
    [(_float8, "weight_scale_inv"), (_int8, "integers"), (_int8_with_scales, "SCB")],
)
def test_packed_weights_without_their_config_are_refused(
    packed: Callable[[Weights], Weights], problem: str, llama: Path
) -> None:
    weights = load_file(llama / _SINGLE)
    save_file(weights | packed(weights), llama / _SINGLE, {"format": "pt"})
    with pytest.raises(ModelError, match=problem) as error:
        _load(llama)
    assert "quantization_config" in str(error.value)
