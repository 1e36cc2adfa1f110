"""Frozen models in 8 and 4 bits: what is refused, and what layers of packed weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from peml.errors import ModelError
from peml.methods.targets import find_linears, read_layers
from peml.models import ModelSettings, load_backbone, quantization
from peml.models.quantization import check_quantization, count_parameters, dense_weight
from peml.models.reading import read_quantization
from peml.testing import save_tiny_model

CPU = torch.device("cpu")


class PackedLinear(nn.Module):
    """A layer as GPTQ's and AWQ's are: whole numbers of a scale for each output."""

    qweight: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("scales", scales)
        self.register_buffer("qweight", (linear.weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("bias", torch.arange(float(linear.out_features)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qweight * self.scales[:, None], self.bias)


def _settings(tmp_path: Path, **options: Any) -> ModelSettings:
    return ModelSettings(name=str(save_tiny_model("llama", tmp_path / "llama")), **options)


def _say(folder: str, **stored: Any) -> None:
    path = Path(folder) / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"quantization_config": stored}), encoding="utf-8")


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    settings = _settings(tmp_path, quantization="nf4")
    with pytest.raises(ModelError, match=r"nf4.*not installed") as caught:
        load_backbone(settings)
    assert "peml[quantization]" in str(caught.value)
    check_quantization(_settings(tmp_path))


def test_missing_kernels_are_told_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: str) -> nn.Module:
        raise NotImplementedError(f"no kernel for {kind}\nand more")

    monkeypatch.setattr(quantization, "find_spec", lambda name: object())
    monkeypatch.setattr(quantization, "_tiny_layer", fail)
    settings = _settings(tmp_path, quantization="int8")
    check_quantization(settings)
    with pytest.raises(ModelError, match=r"can't compute on cpu: no kernel for int8\n"):
        load_backbone(settings)


def test_a_quantised_checkpoint_is_recognised(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert read_quantization(settings) is None
    _say(settings.name, quant_method="gptq", bits=4)
    assert read_quantization(settings) == "gptq"
    twice = settings.model_copy(update={"quantization": "int8"})
    with pytest.raises(ModelError, match=r"quantised already \(gptq\)"):
        load_backbone(twice)
    _say(settings.name, quant_method="mxfp4")
    with pytest.raises(ModelError, match=r"quantised by 'mxfp4'"):
        load_backbone(settings)


def test_packed_layers_are_linear_layers_and_give_their_weights() -> None:
    plain = nn.Linear(6, 4)
    model: Any = nn.Sequential(PackedLinear(plain), nn.Linear(4, 2))
    model.get_output_embeddings = lambda: None
    model.config = PretrainedConfig()
    assert list(find_linears(model)) == ["0", "1"]
    (first, _) = read_layers(model).linears
    assert (first.d_in, first.d_out) == (6, 4)
    assert count_parameters(model) == 6 * 4 + 4 + 4 * 2 + 2
    weight = dense_weight(model[0])
    torch.testing.assert_close(weight, model[0].qweight * model[0].scales[:, None])
    assert (weight - plain.weight).abs().max() <= model[0].scales.max() / 2
