"""Saving and loading the final model, without a training run."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from peml.config.loading import load_config
from peml.data import TaskBatch
from peml.errors import CheckpointError, ModelError
from peml.export import load_model, load_saved, open_model, save_model
from peml.injection.inject import injection_of
from peml.methods.attached import AttachedModel
from peml.methods.prefix.part import PrefixPart
from peml.prefix.prefix import Prefix
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from tests.e2e.toy import FAMILIES, toy_config
from tests.export.folders import reseal


def _disturbed(prepared: Prepared) -> AttachedModel:
    """An attached model whose trainable weights are far from their harmless start."""
    model = attach(prepared, torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def _batches(prepared: Prepared) -> list[TaskBatch]:
    return [prepared.stream.fetch(batch) for batch in prepared.stream.plan(0)[:4]]


@torch.no_grad()
def _scores(model: torch.nn.Module, batches: list[TaskBatch]) -> list[Tensor]:
    return [model(batch).scores for batch in batches]


@pytest.fixture
def saved(toys: Path, tmp_path: Path) -> Path:
    prepared = prepare(load_config(toy_config(toys, "encoder", "lora+prefix")))
    save_model(_disturbed(prepared), tmp_path / "model", prepared.config.method)
    return tmp_path / "model"


@pytest.mark.parametrize(("family", "method"), list(product(FAMILIES, ["lora", "lora+prefix"])))
def test_merged_and_loaded_the_model_says_the_same(
    toys: Path, tmp_path: Path, family: str, method: str
) -> None:
    prepared = prepare(load_config(toy_config(toys, family, method)))
    batches = _batches(prepared)
    plain = _scores(attach(prepared, torch.device("cpu"), None).eval(), batches)
    model = _disturbed(prepared)
    trained = _scores(model, batches)
    save_model(model, tmp_path / "model", prepared.config.method)
    loaded = _scores(load_model(tmp_path / "model"), batches)
    for before, after, untrained in zip(trained, loaded, plain, strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
        assert (before - untrained).abs().max() > 1e-2  # there was something to lose


def test_a_layer_without_prefix_has_none_after_loading(toys: Path, tmp_path: Path) -> None:
    method = {"name": "lora+prefix", "lora": {"r": 4}, "length": 4, "width": 8}
    prepared = prepare(load_config(toy_config(toys, "causal", method)))
    batches = _batches(prepared)
    model = _disturbed(prepared)
    part = model.parts["prefix"]
    assert isinstance(part, PrefixPart)
    yielded = part.yielded

    def without_first() -> Prefix:
        prefix = yielded()
        return Prefix(prefix.tensor, (False, *prefix.active[1:]))

    whole = _scores(model, batches)
    part.yielded = without_first  # type: ignore[method-assign,assignment]
    trained = _scores(model, batches)
    save_model(model, tmp_path / "model", prepared.config.method)
    loaded = _scores(load_model(tmp_path / "model"), batches)
    for before, after, other in zip(trained, loaded, whole, strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
        assert (before - other).abs().max() > 1e-3


def test_a_loaded_prefix_is_where_the_model_is(saved: Path) -> None:
    folder, meta = open_model(saved), torch.device("meta")
    model = load_saved(folder, meta, dtype="bfloat16")
    injection = injection_of(model.backbone)
    assert injection is not None
    assert injection.prefix is not None
    assert injection.prefix.tensor.device == model.device == meta
    assert model.backbone.dtype == torch.bfloat16
    assert model.settings.dtype == "bfloat16"
    assert load_saved(folder).backbone.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_another_type_says_nearly_the_same(saved: Path, toys: Path, dtype: str) -> None:
    prepared = prepare(load_config(toy_config(toys, "encoder", "lora+prefix")))
    batches, folder = _batches(prepared), open_model(saved)
    for one, other in zip(
        _scores(load_saved(folder), batches),
        _scores(load_saved(folder, dtype=dtype), batches),
        strict=True,
    ):
        torch.testing.assert_close(other, one, atol=0.1, rtol=0.1)
        assert not torch.equal(other, one)


def test_the_weights_that_lora_leaves_alone_are_the_base_models(toys: Path, saved: Path) -> None:
    from transformers import AutoModel

    base = dict(AutoModel.from_pretrained(toys / "bert").named_parameters())
    model = load_model(saved)
    touched, same = 0, 0
    for name, parameter in model.backbone.named_parameters():
        if "embeddings" in name or "LayerNorm" in name or name.endswith("bias"):
            assert torch.equal(parameter, base[name]), name
            same += 1
        else:
            assert not torch.equal(parameter, base[name]), name
            touched += 1
    assert same
    assert touched


@pytest.mark.parametrize(
    "name",
    ["backbone/model.safetensors", "heads.safetensors", "prefix.safetensors", "peml.json"],
)
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_file_is_refused_by_name(saved: Path, name: str, damage: str) -> None:
    path = saved / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "altered":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(saved)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"sha256": 3}'])
def test_a_damaged_manifest_is_refused_by_name(saved: Path, content: str | None) -> None:
    manifest = saved / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_model(saved)


def test_a_later_format_is_refused(saved: Path) -> None:
    description = json.loads((saved / "peml.json").read_text()) | {"format": 99}
    (saved / "peml.json").write_text(json.dumps(description))
    reseal(saved)
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(saved)


def test_saving_again_replaces_the_model_as_a_whole(toys: Path, saved: Path) -> None:
    (saved / "left-over.txt").write_text("old")
    prepared = prepare(load_config(toy_config(toys, "encoder", "lora")))
    save_model(_disturbed(prepared), saved, prepared.config.method)
    assert not (saved / "left-over.txt").exists()
    assert not (saved / "prefix.safetensors").exists()
    assert load_model(saved).heads is not None


def test_weights_that_are_no_numbers_are_not_saved(toys: Path, tmp_path: Path) -> None:
    prepared = prepare(load_config(toy_config(toys, "encoder", "lora")))
    model = _disturbed(prepared)
    with torch.no_grad():
        model.groups()[0].parameters[0].fill_(torch.nan)
    with pytest.raises(ModelError, match="tensors are NaN or infinite"):
        save_model(model, tmp_path / "model", prepared.config.method)
    assert not list(tmp_path.iterdir())
