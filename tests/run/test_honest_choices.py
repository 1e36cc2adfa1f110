"""What a run may learn from which rows, and what its ablations really switch off."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.evaluation.evaluate import score_split
from peml.run.cost import CostMeter
from peml.run.evaluation import evaluate_run
from peml.run.folder import RunFolder
from peml.run.held_out import HeldOutRows
from peml.run.pipeline import fit
from peml.run.precision import build_accelerator
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from peml.tasks import SOURCE_ROW
from peml.training.optimizer import build_optimizer, set_learning_rates
from tests.data.rows import write_jsonl
from tests.e2e.toy import toy_config
from tests.tasks.examples import sentiment


def _mood_config(toys: Path, folder: Path, overrides: list[str]) -> RunConfig:
    """One task whose train rows are mostly bad, whose reported rows are mostly good."""
    train = [{"sentence": f"the dog {n}", "label": int(n % 4 == 0)} for n in range(40)]
    reported = [{"sentence": f"a fox {n}", "label": int(n % 4 != 0)} for n in range(12)]
    write_jsonl(folder / "mood" / "train.jsonl", [*train, *reported[:5]])
    write_jsonl(folder / "mood" / "validation.jsonl", reported)
    fields = sentiment().model_dump(mode="json", exclude_defaults=True)
    (folder / "mood.yaml").write_text(yaml.safe_dump(fields))
    tasks = f"tasks={{files: [{folder / 'mood.yaml'}], source: {folder}}}"
    return load_config(toy_config(toys, "encoder", "lora"), [tasks, *overrides])


def _source_rows(prepared: Prepared, split: str) -> list[int]:
    numbers: list[int] = getattr(prepared.loaded.data[0], split).column(SOURCE_ROW)
    return numbers


def test_leaked_train_rows_are_dropped_where_that_is_asked_for(toys: Path, tmp_path: Path) -> None:
    kept = prepare(_mood_config(toys, tmp_path, []))
    dropped = prepare(_mood_config(toys, tmp_path, ["tasks.leakage=drop"]))
    leaked = set(range(40, 45)) & set(_source_rows(kept, "train"))
    assert leaked
    assert set(_source_rows(dropped, "train")) == set(_source_rows(kept, "train")) - leaked
    assert len(dropped.train[0]) == len(kept.train[0]) - len(leaked)
    assert dropped.plan({}).leakage_dropped == {"mood": len(leaked)}
    assert kept.plan({}).leakage_dropped == {}


def test_the_development_split_is_the_same_whatever_the_seed(toys: Path, tmp_path: Path) -> None:
    limited = ["tasks.rows=20", "tasks.evaluation_rows=8"]
    one, other = (
        prepare(_mood_config(toys, tmp_path, [f"seed={seed}", *limited])) for seed in (0, 1)
    )
    for split in ("train", "development", "reported"):
        assert _source_rows(one, split) == _source_rows(other, split), split


def test_the_majority_baseline_is_what_the_train_rows_say(toys: Path, tmp_path: Path) -> None:
    prepared = prepare(_mood_config(toys, tmp_path, []))
    assert Counter(prepared.reported[0].gold).most_common()[0][0] == 1
    assert prepared.majority == [0]
    model = attach(prepared, torch.device("cpu"), None)
    result = evaluate_run(prepared, model, RunFolder(tmp_path / "run"), CostMeter())["mood"]
    assert (result.majority, result.majority_of) == (3 / 12, "train")


def test_an_ablation_is_scored_with_its_part_switched_off(toys: Path, tmp_path: Path) -> None:
    prepared = prepare(load_config(toy_config(toys, "encoder", "lora+prefix")))
    model = attach(prepared, torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    results = evaluate_run(prepared, model, RunFolder(tmp_path / "run"), CostMeter())
    moved = Counter[str]()
    for split in prepared.reported:
        task = prepared.tasks[split.task_id]
        for part in ("lora", "prefix"):
            with model.parts[part].disabled():
                metrics, _ = score_split(model, split, prepared.config.evaluation)
            found = results[task.name].without[part]
            assert found == metrics[task.metrics[0]]
            moved[part] += found != results[task.name].value
    assert moved["lora"]
    assert moved["prefix"]


def test_decisions_keep_their_own_rate_and_momentum(toys: Path) -> None:
    config = load_config(toy_config(toys, "encoder", "peml"), ["training.learning_rate_factor=3"])
    prepared = prepare(config)
    groups = attach(prepared, torch.device("cpu"), None).groups()
    rates = {group.name: group.learning_rate for group in groups}
    optimizer = build_optimizer(groups, config.training)
    built = {group["name"]: group for group in optimizer.param_groups}
    assert built["architecture"]["betas"] == (0.5, 0.999)
    assert built["architecture"]["weight_decay"] == 0
    for step in range(prepared.steps.total):
        now = set_learning_rates(optimizer, step, prepared.steps.total, config.training)
        assert now["architecture"] == rates["architecture"]
    assert built["lora"]["betas"] == (0.9, 0.999)
    assert built["lora"]["peak"] == pytest.approx(3 * rates["lora"])


def test_held_out_rows_are_measured_without_dropout(toys: Path) -> None:
    method = {
        "name": "peml",
        "lora": {"r": 4, "alpha": 64, "dropout": 0.5},
        "prefix": {"length": [2], "width": 8, "cells": 1, "operations": ["skip", "linear"]},
        "search": {"discretise": "perturbation"},
    }
    prepared = prepare(load_config(toy_config(toys, "encoder", method)))
    model = attach(prepared, torch.device("cpu"), None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    held_out = HeldOutRows(prepared, model, build_accelerator("fp32"))
    assert model.search is not None
    model.search.begin(prepared.steps.search, None)
    noisy = {float(held_out.loss(0).detach()) for _ in range(3)}
    assert len(noisy) == 3  # dropout matters here
    assert held_out.measure(2) == held_out.measure(2)
    assert not model.training


@pytest.mark.e2e
def test_moments_are_carried_over_the_discretisation(toys: Path, tmp_path: Path) -> None:
    from peml.files import read_tensors

    config = load_config(
        toy_config(toys, "encoder", "peml"), ["training.keep_checkpoints=50", "export=false"]
    )
    run = fit(config, tmp_path / "run")
    checkpoints = run.folder / "checkpoints"
    (searched,) = sorted(checkpoints.glob("step-*-search"))[-1:]
    step = searched.name.removesuffix("-search")
    before = read_tensors(searched / "optimizer.safetensors")
    after = read_tensors(checkpoints / f"{step}-train" / "optimizer.safetensors")
    stayed = [key for key in before if "prefix" not in key]
    assert any(key.endswith("/exp_avg") for key in stayed)
    for key in stayed:
        assert torch.equal(after[key], before[key]), key
        if "exp_avg" in key:
            assert before[key].abs().sum() > 0


def test_choices_are_made_by_the_mean_that_is_reported(toys: Path, tmp_path: Path) -> None:
    """Development scores weigh rows where a suite's average does, in training and at its end."""
    sizes = {"one": 8, "two": 40}
    for name, size in sizes.items():
        rows = [{"sentence": f"the dog is {name} {n}", "label": n * n % 3 % 2} for n in range(size)]
        write_jsonl(tmp_path / name / "train.jsonl", rows)
        write_jsonl(tmp_path / name / "validation.jsonl", rows)
    half = {"fraction": 0.5}
    tasks = [
        sentiment(name=name, development=half).model_dump(mode="json", exclude_defaults=True)
        for name in sizes
    ]
    suite = tmp_path / "moods.yaml"
    suite.write_text(yaml.safe_dump({"name": "moods", "average": "rows", "tasks": tasks}))
    overrides = [f"tasks={{suite: {suite}, source: {tmp_path}}}", "training.keep=last"]
    config = load_config(
        toy_config(toys, "encoder", "lora"), [*overrides, "evaluation.split=development"]
    )
    run = fit(config, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    *_, last = (line for line in lines if line["kind"] == "development")
    one, two = last["tasks"].values()
    assert one != two
    assert last["mean"] == pytest.approx(np.average([one, two], weights=[4, 20]))
    assert last["mean"] == pytest.approx(run.results.mean)
