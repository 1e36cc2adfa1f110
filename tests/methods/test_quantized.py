"""Methods on models that bitsandbytes has quantised, against the same on dequantised weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import Backbone, ModelSettings, TaskModel, load_backbone
from peml.models.quantization import dequantize, is_quantized
from peml.testing import TINY_TASKS, batch_of, save_tiny_model

pytest.importorskip("bitsandbytes", reason="needs the extra quantization")

_METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 2},
    "rslora": {"r": 2},
    "dora": {"r": 2},
    "adalora": {},
    "hira": {"r": 2},
    "miss": {"r": 2},
    "mtl-lora": {"r": 2},
    "multilora": {"r": 2},
    "c-poly": {},
    "moe-lora": {"r": 4, "experts": 2},
    "lora+prefix": {"lora": {"r": 2}, "length": 2, "width": 4},
    "peml": {"lora": {"r": 2}},
    "prefix-tuning": {"length": 2, "width": 4},
    "prompt-tuning": {"length": 2},
}


def _load(folder: Path, quantization: str, kind: str = "llama") -> Backbone:
    if not (folder / kind).is_dir():
        save_tiny_model(kind, folder / kind, hidden_size=64, intermediate_size=64)
    settings: Any = {"name": str(folder / kind), "max_length": 64, "dtype": "float32"}
    return load_backbone(ModelSettings(**settings, quantization=quantization))


def _saved(folder: Path) -> Backbone:
    """A checkpoint that bitsandbytes has quantised, loaded as it is."""
    loaded = _load(folder, "nf4")
    shutil.copytree(folder / "llama", folder / "ready")
    loaded.model.save_pretrained(folder / "ready")
    settings: Any = {"name": str(folder / "ready"), "max_length": 64, "dtype": "float32"}
    return load_backbone(ModelSettings(**settings))


def _attach(loaded: Backbone, method: str) -> AttachedModel:
    settings = parse_method({"name": method, **_METHODS[method]})
    model = TaskModel(loaded, TINY_TASKS)
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=9)
    return build_method(settings).attach(model, context)


def _moved(model: AttachedModel) -> AttachedModel:
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)
    return model


def _loss_and_gradients(model: AttachedModel) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(0)
    output = model.train()(batch_of(model.base))
    output.loss.backward()
    return output.loss.detach(), [p.grad for group in model.groups() for p in group.parameters]


@pytest.mark.parametrize("method", _METHODS)
def test_a_method_on_4_bits_is_the_method_on_the_dequantised_weights(
    method: str, tmp_path: Path
) -> None:
    quantised = _moved(_attach(_load(tmp_path, "nf4"), method))
    assert sum(map(is_quantized, quantised.modules())) == 14
    plain = _load(tmp_path, "nf4")
    dequantize(plain.model)
    other = _moved(_attach(plain, method))
    assert not any(map(is_quantized, other.modules()))
    other.load_trainable_state(quantised.trainable_state())
    with torch.no_grad():  # on some CPUs, weights would be packed for a kernel without gradients
        quantised.eval()(batch_of(quantised.base))
    (loss, gradients), (wanted, others) = map(_loss_and_gradients, (quantised, other))
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(others)
    for one, two in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "c-poly", "prefix-tuning"])
def test_a_method_on_8_bits_comes_near_to_it(method: str, tmp_path: Path) -> None:
    quantised = _moved(_attach(_load(tmp_path, "int8"), method))
    plain = _load(tmp_path, "int8")
    dequantize(plain.model)
    other = _moved(_attach(plain, method))
    other.load_trainable_state(quantised.trainable_state())
    (loss, gradients), (wanted, others) = map(_loss_and_gradients, (quantised, other))
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0.02)
    for one, two in zip(gradients, others, strict=True):
        assert one is not None
        assert two is not None
        assert (one - two).norm() <= 0.1 * two.norm() + 1e-6


def test_the_quiet_start_is_measured_on_the_quantised_model(tmp_path: Path) -> None:
    def keys(loaded: Backbone) -> Tensor:
        model = _attach(loaded, "prefix-tuning")
        return model.trainable_state()["added.prefix.network.frame.base"]

    plain = _load(tmp_path, "nf4")
    dequantize(plain.model)
    assert torch.allclose(keys(_load(tmp_path, "nf4")), keys(plain), atol=1e-4)
    whole = load_backbone(
        ModelSettings(name=str(tmp_path / "llama"), max_length=64, dtype="float32")
    )
    assert not torch.allclose(keys(_load(tmp_path, "nf4")), keys(whole), atol=1e-2)


def test_a_quantised_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    ready = _moved(_attach(_saved(tmp_path), "lora"))
    assert sum(map(is_quantized, ready.modules())) == 14
    loss, _ = _loss_and_gradients(ready)
    wanted, _ = _loss_and_gradients(_moved(_attach(_load(tmp_path, "nf4"), "lora")))
    assert loss == wanted
