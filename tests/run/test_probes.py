"""A run tries the model it saves on real rows, and can go on where it was refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.errors import RunError
from peml.methods.lora.lora import LoraPart
from peml.run import probes
from peml.run.pipeline import fit
from peml.run.preparation import prepare
from peml.run.probes import probe_batches
from tests.e2e.toy import FAMILIES, toy_config


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_reported_rows_of_every_task_are_asked(toys: Path, family: str) -> None:
    prepared = prepare(load_config(toy_config(toys, family, "lora")))
    batches = probe_batches(prepared)
    asked = dict.fromkeys(range(len(prepared.tasks)), 0)
    for batch in batches:
        (task,) = set(batch.task_ids.tolist())
        asked[task] += batch.examples
    most = min(8, 32 // len(asked))
    wanted = [min(most, len(item.reported)) for item in prepared.loaded.data]
    assert list(asked.values()) == wanted
    if family != "encoder":
        assert all(batch.labels is not None for batch in batches)


def test_fewer_rows_are_asked_where_prompts_are_long(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(load_config(toy_config(toys, "causal", "lora")))
    rows = sum(batch.examples for batch in probe_batches(prepared))
    tokens = sum(int(batch.attention_mask.sum()) for batch in probe_batches(prepared))
    monkeypatch.setattr(probes, "_TOKENS", tokens // 2)
    few = probe_batches(prepared)
    assert sum(int(batch.attention_mask.sum()) for batch in few) <= tokens // 2
    assert len(prepared.tasks) < sum(batch.examples for batch in few) < rows
    monkeypatch.setattr(probes, "_TOKENS", 1)
    assert [batch.examples for batch in probe_batches(prepared)] == [1] * len(prepared.tasks)


def test_a_refused_model_leaves_a_run_to_go_on_with(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(toy_config(toys, "causal", "lora"))
    with monkeypatch.context() as broken:
        broken.setattr(LoraPart, "merge", lambda part: part._tuner.unload())
        with pytest.raises(RunError, match="gives other scores"):
            fit(config, tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoints", "predictions"} <= left
    assert not {"model", ".model.partial", "results.json"} & left
    run = fit(config, tmp_path / "run")
    found = json.loads((run.folder / "results.json").read_text())["export"]
    assert found["rows"] > 8
    assert found["largest_difference"] < 1e-5
    assert "read back from disk, answers" in (run.folder / "report.md").read_text()
    assert "read back from disk, answers" in (run.folder / "report.html").read_text()
