"""Options of the training that show in what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from peml.config.loading import load_config
from peml.records.metrics import Scores
from peml.run.folder import RunFolder
from peml.run.pipeline import Run, fit
from peml.run.preparation import prepare
from peml.run.trackers import Trackers
from peml.run.training import TrainingSession
from tests.e2e.toy import Row, toy_config

pytestmark = pytest.mark.e2e

_LOADERS: dict[str, Any] = {
    "encoder": AutoModel,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def _fit(toys: Path, folder: Path, training: Row) -> Run:
    config = toy_config(toys, method="lora", training=training)
    return fit(load_config(config), folder / "run")


def _log(run: Run, kind: str) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


@pytest.mark.parametrize("family", _LOADERS)
def test_training_leaves_the_frozen_weights_alone(toys: Path, tmp_path: Path, family: str) -> None:
    config = load_config(toy_config(toys, family), ["training.epochs=0.5"])
    folder = RunFolder(tmp_path / "run")
    session = TrainingSession(prepare(config), folder, Console(quiet=True))
    folder.create(config)
    model = session.run(Trackers(session.console))
    loaded = dict(_LOADERS[family].from_pretrained(config.model.name).named_parameters())
    seen = set()
    for name, parameter in model.base.backbone.named_parameters():
        if ".lora_" not in name:
            plain = name.replace(".base_layer", "")
            assert torch.equal(parameter, loaded[plain]), name
            assert not parameter.requires_grad
            seen.add(plain)
    assert {name for name in loaded if "pooler" not in name} == seen


def test_patience_stops_a_run_that_gets_no_better(toys: Path, tmp_path: Path) -> None:
    rates = {"learning_rates": {"lora": 1e-12, "heads": 1e-12}}
    run = _fit(toys, tmp_path, {"evaluate_every": 3, "patience": 2} | rates)
    assert run.results.cost.steps == {"train": 9}  # the first is the best
    assert [line["step"] for line in _log(run, "development")] == [3, 6, 9]


def test_accumulation_takes_more_batches_a_step(toys: Path, tmp_path: Path) -> None:
    run = _fit(toys, tmp_path, {"accumulation": 3, "epochs": 1})
    assert run.results.cost.steps == {"train": 6}
    plan = json.loads((run.folder / "plan.json").read_text())
    assert run.results.cost.tokens["train"] == plan["tokens_per_epoch"]


def test_intervals_decide_when_it_is_evaluated_saved_and_logged(toys: Path, tmp_path: Path) -> None:
    options: Row = {"evaluate_every": 8, "checkpoint_every": 7, "log_every": 4, "epochs": 1}
    run = _fit(toys, tmp_path, options | {"keep_checkpoints": 99})
    saved = sorted(path.name for path in run.folder.glob("checkpoints/step-*"))
    assert saved == [f"step-{step:07d}-train" for step in (7, 8, 14, 16, 18)]
    assert [line["step"] for line in _log(run, "development")] == [8, 16, 18]
    assert [line["step"] for line in _log(run, "step")] == [4, 8, 12, 16]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_final_weights_are_the_ones_to_keep(
    toys: Path, tmp_path: Path, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scores that peak at step 6, whatever the model does: the last evaluation isn't the best.
    def evaluate(session: TrainingSession) -> Scores:
        score = 1 / (1 + abs(session._progress.step - 6))
        return Scores(mean=score, tasks={"mood": score})

    monkeypatch.setattr(TrainingSession, "_evaluate", evaluate)
    run = _fit(toys, tmp_path, {"keep": keep, "evaluate_every": 2, "epochs": 1})
    means = {line["step"]: line["mean"] for line in _log(run, "development")}
    best = max(means, key=lambda step: means[step])
    assert best == 6 != max(means)
    name = f"best-{best:07d}" if keep == "best" else f"step-{max(means):07d}-train"
    trained = load_file(run.folder / "checkpoints" / name / "trainable.safetensors")
    final = load_file(run.folder / "model" / "heads.safetensors")
    assert torch.equal(final["weight"], trained["base.heads.weight"])


@pytest.mark.parametrize("family", _LOADERS)
def test_gradient_checkpointing_trains_the_same_weights(
    toys: Path, tmp_path: Path, family: str
) -> None:
    runs = []
    for checkpointing in (False, True):
        model: Row = {"gradient_checkpointing": checkpointing}
        config = toy_config(toys, family, "lora+prefix", model=model)
        options = ["training.epochs=0.3", "evaluation.ablations=false"]
        run = fit(load_config(config, options), tmp_path / str(checkpointing))
        runs.append(load_file(run.folder / "model" / "prefix.safetensors")["prefix"])
    torch.testing.assert_close(runs[0], runs[1], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_holds_no_frozen_weight(toys: Path, tmp_path: Path) -> None:
    run = _fit(toys, tmp_path, {"epochs": 0.5})
    (folder,) = run.folder.glob("checkpoints/step-*")
    names = load_file(folder / "trainable.safetensors")
    assert all(".lora_" in name or ".heads." in name for name in names)
