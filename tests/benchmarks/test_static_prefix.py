"""The benchmark of a merged decoder with its prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peml.injection.inject import injection_of
from peml.testing import save_tiny_model
from tests.benchmarks.conftest import Script


def test_it_measures_reading_and_writing(
    script: Script, tmp_path: Path, figures: Callable[[], list[dict[str, Any]]]
) -> None:
    benchmark = script("static_prefix")
    model = str(save_tiny_model("llama", tmp_path / "model"))
    words = ["--model", model, "--prompt", "9", "--tokens", "3", "--rounds", "2"]
    benchmark.main([*words, "--json", str(tmp_path / "figures.json")])
    found = {each["name"].partition(":")[0] + each["unit"]: each["value"] for each in figures()}
    assert found.keys() == {"prefill", "prefillms", "decode", "decodems"}
    assert min(found.values()) > 0
    side = benchmark.merged(model)
    assert injection_of(side) is not None
    cache = benchmark.read(side, torch.tensor([[5, 6, 7]]))
    benchmark.write(side, cache, 4)
    assert cache.get_seq_length() == 7
