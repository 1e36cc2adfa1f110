"""Runs on quantised models: what the plan says, what a resumed run does, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.errors import ConfigError, ModelError
from peml.export import load_model
from peml.methods.registry import build_method
from peml.models import quantization
from peml.models.quantization import is_quantized
from peml.records.plan import Plan
from peml.records.run import Results
from peml.run.listener import RunStopped
from peml.run.pipeline import fit, plan
from peml.run.precision import choose_precision
from peml.run.preparation import prepare
from peml.testing import save_tiny_model
from tests.e2e.toy import toy_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _config(folder: Path, method: str | dict[str, Any] = "lora", kind: str = "nf4") -> RunConfig:
    model = save_tiny_model("bert", folder / "bert", hidden_size=64, intermediate_size=64)
    written = toy_config(
        folder,
        "encoder",
        method,
        tasks={"exclude": ["rewrite", "ending", "closeness"]},
        training={"epochs": 1, "evaluate_every": 3},
        model={"name": str(model), "quantization": kind},
    )
    return load_config(written)


def test_what_trains_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'full' trains the model's own weights.* nf4"):
        prepare(_config(tmp_path, {"name": "full"}))


def test_the_final_model_is_in_float32_whatever_is_set(tmp_path: Path) -> None:
    config = _config(tmp_path)
    model = config.model.model_copy(update={"dtype": "bfloat16"})
    config = config.model_copy(update={"model": model})
    found = choose_precision(config, build_method(config.method))
    assert (found.weights, found.exported, found.quantization) == ("bfloat16", "float32", "nf4")


def test_a_missing_library_is_told_before_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    config = _config(tmp_path)
    monkeypatch.setattr("peml.run.preparation.load_all", lambda *_, **__: pytest.fail("rows read"))
    with pytest.raises(ModelError, match="bitsandbytes is not installed"):
        plan(config)


@pytest.mark.parametrize("method", ["peml", "c-poly"])
def test_a_run_in_4_bits_resumes_and_saves_dequantised_weights(method: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra quantization")
    settings: Any = method if method == "peml" else {"name": method}
    config = _config(tmp_path, settings)
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "stopped", on_evaluation=lambda *_: True)
    stopped = fit(config, tmp_path / "stopped")
    whole = fit(config, tmp_path / "whole")
    assert stopped.results.tasks == whole.results.tasks
    planned = Plan.read(whole.folder)
    assert planned.precision is not None
    assert planned.precision.sentence.startswith("fp32, frozen weights in nf4 (those that are not")
    assert planned.identity.model["quantization"] == "nf4"
    export = Results.read(whole.folder).export
    assert export is not None
    assert export.from_quantized is not None
    assert export.from_quantized <= 1e-4
    assert export.sentence.startswith("The scores of this run are of the quantised model.")
    model = load_model(whole.folder / "model")
    assert not any(map(is_quantized, model.modules()))
    assert model.backbone.dtype == torch.float32
    assert model.settings.quantization is None
