"""The benchmark of the service, with servers in the test's process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peml.serving import load
from peml.serving.service.keys import Keys
from peml.testing.models import save_tiny_model
from tests.benchmarks.conftest import Script
from tests.serving.service.live import living


@pytest.mark.parametrize("what", ["throughput", "latency", "texts", "soak"])
def test_it_measures(
    script: Script,
    tmp_path: Path,
    model: Path,
    figures: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    benchmark = script("serve")

    @contextmanager
    def served(_: Any, folder: Path, side: str) -> Iterator[tuple[int, int]]:
        made = benchmark.Engine if side == "ours" else benchmark.SwitchingEngine
        keys = Keys("benchmark-benchmark")
        with living(load(folder, "cpu"), keys=keys, made=made) as live:
            yield int(live.url.rpartition(":")[2]), os.getpid()

    monkeypatch.setattr(benchmark, "served", served)
    if what == "texts":
        model = save_tiny_model("llama", tmp_path / "llama", max_position_embeddings=256)
    words = ["--clients", "10", "--seconds", "0.2", "--rounds", "1", "--requests", "5"]
    words += ["--model", str(model), "--json", str(tmp_path / "figures.json")]
    benchmark.main([what, *words])
    found = {figure["name"]: figure["value"] for figure in figures()}
    if what == "soak":
        assert found["answers"] > 0
        assert found["status 200"] > 0
        assert found["answers with 5xx"] == 0
    else:
        assert next(value for name, value in found.items() if "ratio" in name) > 0
