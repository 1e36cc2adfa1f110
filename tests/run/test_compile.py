"""A run with ``training.compile`` is the run without, to rounding."""

from __future__ import annotations

import json
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

import peml.run.preparation
import peml.run.training
from peml.config.loading import load_config
from peml.models.compiling import CompiledBlocks
from peml.run.pipeline import fit
from peml.testing.models import save_tiny_model
from tests.e2e.toy import METHODS, toy_config

pytestmark = pytest.mark.e2e


def test_a_compiled_run_writes_what_the_run_without_writes(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a compiler; whether there is one is tested elsewhere.
    compiled = partial(CompiledBlocks, backend="eager")
    monkeypatch.setattr(peml.run.training, "CompiledBlocks", compiled)
    checked: list[None] = []
    monkeypatch.setattr(peml.run.preparation, "check_compiler", lambda: checked.append(None))
    save_tiny_model("llama", toys / "one-block", num_hidden_layers=1)
    config = toy_config(toys, "causal", METHODS["peml"], tiny="one-block")
    options = ["training.epochs=0.5", "training.log_every=1", "model.gradient_checkpointing=true"]
    losses, names, said = [], [], []
    for name, more in (("plain", []), ("compiled", ["training.compile=true"])):
        shown = StringIO()
        folder = fit(
            load_config(config, [*options, *more]), tmp_path / name, Console(file=shown)
        ).folder
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["kind"] == "step"])
        files = sorted(folder.rglob("*.safetensors"))
        names.append({str(f.relative_to(folder)): sorted(load_file(f)) for f in files})
        said.append(shown.getvalue())
    assert len(losses[0]) > 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert names[0] == names[1]
    assert checked == [None]
    assert "torch.compile:" in said[1]
    assert "torch.compile:" not in said[0]
