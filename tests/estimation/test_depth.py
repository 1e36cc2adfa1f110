"""Models with many layers are counted with few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.errors import ConfigError
from peml.estimation import Estimate, depth, estimate
from peml.models import ModelSettings
from peml.models.loading import count_layers
from peml.testing import save_tiny_model
from tests.estimation.test_estimate import CPU, config, folder

__all__ = ["folder"]


def _of(settings: Any, deep: int, monkeypatch: pytest.MonkeyPatch) -> Estimate:
    monkeypatch.setattr(depth, "_DEEP", deep)
    return estimate(settings, CPU, rows=100, length=16)


def test_few_layers_tell_what_all_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model("llama", folder / "llama", num_hidden_layers=8)
    settings = config(folder, "llama", model={"gradient_checkpointing": True})
    whole, few = _of(settings, 9, monkeypatch), _of(settings, 8, monkeypatch)
    assert few.basis == f"{whole.basis}; counted with 2, 4, 6 of 8 layers"
    for name in ("parameters", "trainable_parameters", "steps", "batch"):
        assert getattr(few, name) == getattr(whole, name)
    for name in ("flops", "step_flops", "hours"):
        assert getattr(few, name) == pytest.approx(getattr(whole, name), rel=1e-3)
    for name in ("training", "evaluation"):
        expected = getattr(whole, name).model_dump()
        assert getattr(few, name).model_dump() == pytest.approx(expected, rel=2e-3), name


@pytest.fixture
def plain(folder: Path) -> Estimate:
    return estimate(config(folder), CPU)


def _with(plain: Estimate, **training: int) -> Estimate:
    assert plain.training is not None
    return plain.model_copy(update={"training": plain.training.model_copy(update=training)})


def test_all_layers_are_counted_where_few_do_not_tell(plain: Estimate) -> None:
    curves = {
        "line": lambda few: _with(plain, logits=few, activations=few),
        "bent": lambda few: _with(plain, logits=few**2),
        "falling": lambda few: _with(plain, activations=1000 - few),
        "refused": _refuse,
    }
    found = {name: depth.count_few_layers(40, curve) for name, curve in curves.items()}
    assert [name for name, whole in found.items() if whole is not None] == ["line"]
    line = found["line"]
    assert line is not None
    assert line.training is not None
    assert (line.training.logits, line.training.activations) == (40, 40)


def _refuse(few: int) -> Estimate:
    raise ConfigError(f"a network for 40 layers and {few}", allowed="", action="")


def test_layers_that_differ_are_not_counted_on(tmp_path: Path) -> None:
    changed: dict[str, dict[str, Any]] = {
        "llama": {},
        "t5": {},
        "qwen2": {"layer_types": ["sliding_attention", "full_attention"]},
    }
    for name, sections in changed.items():
        save_tiny_model(name, tmp_path / name, **sections)
    found = {name: count_layers(ModelSettings(name=str(tmp_path / name))) for name in changed}
    assert found == {"llama": 2, "t5": 0, "qwen2": 0}
