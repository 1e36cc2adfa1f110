"""What a run computes in: chosen once, said, kept on resume, the same for its scores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.errors import RunError
from peml.methods.registry import build_method
from peml.records.plan import Plan, Precision
from peml.records.run import Results
from peml.run import evaluation as final
from peml.run import training as session
from peml.run.listener import RunStopped
from peml.run.pipeline import fit
from peml.run.precision import build_accelerator, choose_precision
from peml.testing.models import save_tiny_model
from tests.e2e.toy import toy_config

_BF16 = Precision(
    compute="bf16", weights="bfloat16", reason="the CPU has bf16 instructions (AVX512-BF16)"
)
_TRAINING = {"epochs": 1, "evaluate_every": 2}


def _cpu(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)


def _config(
    folder: Path, method: str | dict[str, Any] = "lora", width: int = 256, **sections: Any
) -> RunConfig:
    """A toy run on a wide enough model."""
    model = save_tiny_model("bert", folder / f"wide{width}", hidden_size=width, num_hidden_layers=1)
    tasks = {"exclude": ["rewrite", "ending", "closeness"]}
    sections = {"training": _TRAINING, **sections}
    sections["model"] = {"name": str(model), **sections.get("model", {})}
    return load_config(toy_config(folder, "encoder", method, tasks=tasks, **sections))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _chosen(config: RunConfig) -> tuple[str, str, str]:
    found = choose_precision(config, build_method(config.method))
    return found.compute, found.weights, found.reason


def test_a_wide_model_is_computed_in_bf16_where_the_cpu_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cpu(monkeypatch, bf16=True)
    assert _chosen(_config(tmp_path)) == ("bf16", "bfloat16", _BF16.reason)
    compute, weights, reason = _chosen(_config(tmp_path, width=128))
    assert (compute, weights) == ("fp32", "float32")
    assert reason == "with 128 channels, below 256, a CPU is no faster in bf16"
    _cpu(monkeypatch, bf16=False)
    assert _chosen(_config(tmp_path))[0] == "fp32"
    assert _chosen(_config(tmp_path))[2].startswith("the CPU has no bf16 instructions")


def test_what_is_set_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cpu(monkeypatch, bf16=True)
    fp32 = _config(tmp_path, training={"precision": "fp32"})
    assert _chosen(fp32) == ("fp32", "float32", "as training.precision says")
    assert _chosen(_config(tmp_path, model={"dtype": "float32"}))[:2] == ("bf16", "float32")


def test_bf16_that_is_slow_here_is_done_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bf16 = _config(tmp_path, training={"precision": "bf16"})
    _cpu(monkeypatch, bf16=True)
    assert _chosen(bf16)[2] == "as training.precision says"
    _cpu(monkeypatch, bf16=False)
    compute, weights, reason = _chosen(bf16)
    assert (compute, weights) == ("bf16", "bfloat16")
    assert "although the CPU has no bf16 instructions" in reason
    assert "auto takes fp32" in reason


def test_weights_that_train_are_stored_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cpu(monkeypatch, bf16=True)
    assert _chosen(_config(tmp_path, {"name": "full"}))[:2] == ("bf16", "float32")


def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that would choose another; and every score is computed as training is."""
    scored = []
    for module in (session, final):
        known = module.score_split

        def score(*given: Any, known: Any = known) -> Any:
            scored.append(torch.is_autocast_enabled("cpu"))
            return known(*given)

        monkeypatch.setattr(module, "score_split", score)
    _cpu(monkeypatch, bf16=True)
    config = _config(tmp_path)
    console = Console(record=True, width=200, file=io.StringIO())
    whole = fit(config, tmp_path / "whole", console)
    assert f"precision: {_BF16.sentence}" in console.export_text()
    assert set(scored) == {True}
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda *_: True)
    _cpu(monkeypatch, bf16=False)
    resumed = fit(config, tmp_path / "run")
    assert resumed.results.precision == Plan.read(tmp_path / "run").precision == _BF16
    assert resumed.results.tasks == whole.results.tasks
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run")]
    assert logs[0] == logs[1]
    assert _BF16.sentence in (tmp_path / "run" / "report.md").read_text()
    assert Results.read(tmp_path / "run").precision == _BF16
    saved = json.loads((tmp_path / "run" / "model" / "peml.json").read_text())
    assert saved["model"]["dtype"] == "float32"  # an exact merge, found as near as that
    assert resumed.results.export is not None
    assert resumed.results.export.largest_difference < 1e-4


def test_a_run_that_kept_no_record_of_its_precision_is_not_guessed_at(tmp_path: Path) -> None:
    config = _config(tmp_path, width=32)
    with pytest.raises(RunStopped):
        fit(config, tmp_path / "run", on_evaluation=lambda *_: True)
    path = tmp_path / "run" / Plan.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": None}))
    with pytest.raises(RunError, match="doesn't record the precision"):
        fit(config, tmp_path / "run")


def test_a_trainers_precision_in_the_same_process_does_not_stand_in_the_way() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(mixed_precision="bf16", cpu=True)
        assert not build_accelerator("fp32").autocast().__dict__["_enabled"]
        assert build_accelerator("bf16").autocast().__dict__["_enabled"]
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
