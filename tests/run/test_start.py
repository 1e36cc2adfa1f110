"""Runs that go on from the weights of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from peml.config.loading import parse_config
from peml.errors import ModelError, RunError
from peml.export import load_model
from peml.methods.attached import AttachedModel
from peml.records.plan import Identity, Plan, Start
from peml.run.identity import identify
from peml.run.preparation import Prepared, prepare
from peml.run.start import start_from
from peml.run.training import attach
from tests.cli.commands import peml
from tests.e2e.fixtures import Runs
from tests.e2e.toy import toy_config
from tests.methods.test_start_from import saved

Capture = pytest.CaptureFixture[str]


def begun(config: Path, **changes: Any) -> tuple[Prepared, AttachedModel, Identity]:
    """A run before its first step, of a config with other sections."""
    section = yaml.safe_load(config.read_text())
    for name, values in changes.items():
        section[name] = {**section[name], **values} if name in section else values
    prepared = prepare(parse_config(section))
    return prepared, attach(prepared, torch.device("cpu"), None).eval(), identify(prepared)


def start(run: Path, config: Path, **changes: Any) -> tuple[Start, Prepared, AttachedModel]:
    prepared, model, identity = begun(config, **changes)
    return start_from(run, model, prepared, identity), prepared, model


@pytest.mark.parametrize(
    ("family", "method"),
    [("encoder", "peml"), ("encoder", "lora+prefix"), ("causal", "lora")],
)
def test_a_run_starts_where_the_other_ended(runs: Runs, family: str, method: str) -> None:
    run = runs(family, method)
    changes = {}
    if method == "peml":
        changes = {"method": {"search": {"genotype": str(run / "genotype.json")}}}
    found, prepared, model = start(run, run / "config.yaml", **changes)
    ended = load_model(run / "model")
    wanted, batches = [], [prepared.stream.next() for _ in range(3)]
    fresh = begun(run / "config.yaml", **changes)[1]
    with torch.no_grad():
        for batch in batches:
            wanted.append(ended(batch).losses)
            torch.testing.assert_close(model(batch).losses, wanted[-1], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(fresh(batches[0]).losses, wanted[0], atol=1e-3)
    assert found.left == {}
    assert list(found.taken) == list(model.parts)
    names = [task.name for task in prepared.tasks]
    assert found.heads == (names if family == "encoder" else [])
    assert found.new_tasks == []
    assert found.checksum


def test_what_is_another_is_left_and_told(runs: Runs) -> None:
    run = runs("encoder", "lora+prefix")
    found, _, _ = start(run, run / "config.yaml", method={"length": 8})
    assert list(found.taken) == ["lora"]
    assert "length was 4 and is 8" in found.left["prefix"]
    lora = {"r": 2, "alpha": 8, "learning_rate": 0.01}
    found, _, _ = start(run, run / "config.yaml", method={"lora": lora})
    assert list(found.taken) == ["prefix"]
    assert "r of the adapter is 4, and of the method 2" in found.left["lora"]
    run = runs("encoder", "peml")
    found, _, _ = start(run, run / "config.yaml")  # searches anew
    assert list(found.taken) == ["lora"]
    assert "method.search.genotype" in found.left["prefix"]
    assert any("not taken over: prefix" in sentence for sentence in found.sentences)


def test_a_run_s_lora_starts_another_method(runs: Runs) -> None:
    run = runs("encoder", "lora")
    other = runs("encoder", "lora+prefix") / "config.yaml"
    found, _, _ = start(run, other)
    assert list(found.taken) == ["lora"]
    assert found.left == {"prefix": "the run's method is lora"}


def test_another_base_model_is_refused(runs: Runs, tmp_path: Path) -> None:
    run = runs("encoder", "lora")
    section = yaml.safe_load((run / "config.yaml").read_text())
    shutil.copytree(section["model"]["name"], tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    weights = {name: value + 0.01 for name, value in weights.items()}
    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="another base model: its weights differ"):
        start(run, run / "config.yaml", model={"name": str(tmp_path / "bert")})


def test_folders_without_weights_are_refused(runs: Runs, toys: Path, tmp_path: Path) -> None:
    run = runs("encoder", "lora")
    with pytest.raises(RunError, match="no folder of a finished run"):
        start(tmp_path, run / "config.yaml")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="has no checkpoints"):
        start(copy, run / "config.yaml")
    config = toy_config(toys, "encoder", {"name": "hira", "r": 4})
    found, _, _ = start(run, config)
    assert found.taken == {}  # the heads fit all the same
    assert found.heads
    config = toy_config(toys, "causal", {"name": "hira", "r": 4})
    with pytest.raises(RunError, match=r"no weight of .* fits this run: hira"):
        start(runs("causal", "lora"), config)


def test_an_adapter_of_peft_starts_lora_and_peml(runs: Runs, toys: Path, tmp_path: Path) -> None:
    adapter, _ = saved(toys, "bert")
    for method in ("lora", "peml"):
        found, _, model = start(adapter, runs("encoder", method) / "config.yaml")
        assert list(found.taken) == ["lora"]
        assert found.left["heads"]
        assert any("classifier" in name for name in found.left)
        state = load_file(adapter / "adapter_model.safetensors")
        own = next(
            v for n, v in model.trainable_state().items() if "layer.0" in n and "lora_B" in n
        )
        assert any(torch.equal(own, value) for value in state.values())
    config = toy_config(toys, "encoder", {"name": "prompt-tuning", "length": 2})
    with pytest.raises(ModelError, match="no part that could take it over"):
        start(adapter, config)


@pytest.mark.e2e
def test_tasks_are_added_to_a_finished_run(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    config = toy_config(toys, "encoder", "lora", tasks={"exclude": ["rewrite", "same"]})
    first, second = tmp_path / "first", tmp_path / "second"
    assert peml(capsys, "fit", config, "--output", first).code == 0
    more = ("--set", 'tasks.exclude=["rewrite", "closeness"]', "--set", f"init_from={first}")
    said = peml(capsys, "fit", config, "--dry-run", *more)
    assert "heads of mood, ending" in said.out, said.error
    assert "new tasks: same" in said.out
    assert "not taken over: the head of closeness (no task of this run)" in said.out
    said = peml(capsys, "fit", config, "--output", second, *more)
    assert said.code == 0, said.error
    found = Plan.read(second).start
    assert found is not None
    assert (found.heads, found.new_tasks) == (["mood", "ending"], ["same"])
    assert json.loads((second / "plan.json").read_text())["start"]["source"] == str(first)
    said = peml(capsys, "fit", config, "--output", first, "--set", "training.epochs=9")
    assert said.code == 2
    assert "training.epochs was 2.0 and is 9.0" in said.error
    assert "planned over all steps" in said.error
    assert f"init_from: {first}" in said.error
