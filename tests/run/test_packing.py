"""A run with packed rows is the run with padded ones, to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peml.config.loading import load_config
from peml.errors import ConfigError
from peml.run.folder import RunFolder
from peml.run.preparation import prepare
from peml.run.trackers import Trackers
from peml.run.training import TrainingSession
from tests.e2e.toy import METHODS, toy_config

pytestmark = pytest.mark.e2e

# With what else depends on rows: gradients by task, weights of losses.
_OPTIONS = {
    "peml": ["training.accumulation=2", "training.balancing.strategy=pcgrad"],
    "lora": ["training.balancing.strategy=uncertainty"],
    "mtl-lora": ["model.gradient_checkpointing=true"],
}


def _steps(config: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    loaded = load_config(config, ["training.epochs=0.5", "training.log_every=1", *overrides])
    run = RunFolder(folder)
    session = TrainingSession(prepare(loaded), run, Console(quiet=True))
    run.create(loaded)
    session.run(Trackers(session.console))
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [line for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("method", _OPTIONS)
def test_packed_rows_train_as_padded_ones_do(toys: Path, tmp_path: Path, method: str) -> None:
    config = toy_config(toys, "causal", METHODS.get(method, {"name": method, "r": 4}))
    options = _OPTIONS[method]
    padded = _steps(config, tmp_path / "padded", *options)
    packed = _steps(config, tmp_path / "packed", *options, "batches.packing=true")
    assert len(padded) == len(packed) > 4
    for one, other in zip(padded, packed, strict=True):
        assert one["task_losses"] == pytest.approx(other["task_losses"], abs=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
        assert one["task_rows"] == other["task_rows"]


def test_a_family_that_cannot_pack_is_refused_before_anything_is_loaded(toys: Path) -> None:
    config = load_config(toy_config(toys, "seq2seq", method="lora"), ["batches.packing=true"])
    with pytest.raises(ConfigError, match="'seq2seq' can't pack rows"):
        prepare(config)
