"""The command itself, killed from outside while it trains, and called again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.apart import fit_apart
from tests.e2e.toy import toy_config

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("unrendered")]


def test_a_command_killed_in_training_goes_on_when_called_again(toys: Path, tmp_path: Path) -> None:
    options = {"checkpoint_every": 2, "keep": "last", "evaluate_every": 12}
    config = toy_config(toys, "causal", "peml", training=options)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "peml", "fit", str(config), "--output", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(killed.glob("checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "results.json").exists()
    assert list(killed.glob("checkpoints/step-*"))
    assert fit_apart(config, killed) == 0
    assert fit_apart(config, whole) == 0
    for name in ("metrics.jsonl", "genotype.json", "model/prefix.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((run / "results.json").read_text()) for run in (killed, whole)]
    assert results[0]["tasks"] == results[1]["tasks"]
