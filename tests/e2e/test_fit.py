"""`peml fit` end to end: a complete folder, sound numbers, and what should have moved has."""

from __future__ import annotations

import json
from itertools import product
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import peml
from peml.config.loading import load_config
from peml.evaluation import read_predictions
from peml.evaluation.metrics import METRICS
from peml.run.folder import RunFolder
from peml.run.pipeline import fit
from peml.run.preparation import prepare
from peml.run.training import attach
from tests.e2e.fixtures import Runs
from tests.e2e.toy import FAMILIES, METHODS, toy_config

pytestmark = pytest.mark.e2e

_ALL = list(product(FAMILIES, METHODS))
_FILES = (
    "config.yaml",
    "environment.json",
    "plan.json",
    "metrics.jsonl",
    "results.json",
    "report.md",
    "report.html",
    "model/manifest.json",
    "model/peml.json",
    "model/backbone/model.safetensors",
)


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def _log(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.parametrize(("family", "method"), _ALL)
def test_the_run_folder_is_complete(runs: Runs, family: str, method: str) -> None:
    folder = runs(family, method)
    tasks = [task["name"] for task in _read(folder, "plan.json")["tasks"]]
    assert ("rewrite" in tasks) == (family != "encoder")
    predictions = [f"predictions/{task}.parquet" for task in tasks]
    has_prefix = method != "lora"
    assert not [name for name in (*_FILES, *predictions) if not (folder / name).is_file()]
    assert (folder / "model" / "prefix.safetensors").is_file() == has_prefix
    assert (folder / "genotype.json").is_file() == has_prefix
    assert (folder / "model" / "heads.safetensors").is_file() == (family == "encoder")
    assert list(folder.glob("tensorboard/events.*"))
    checkpoints = sorted(path.name for path in folder.glob("checkpoints/step-*"))
    assert len(checkpoints) == 2
    for name in ("trainable", "optimizer", "extra"):
        assert (folder / "checkpoints" / checkpoints[-1] / f"{name}.safetensors").is_file()


@pytest.mark.parametrize(("family", "method"), _ALL)
def test_results_say_what_was_found_and_what_it_cost(runs: Runs, family: str, method: str) -> None:
    folder = runs(family, method)
    results, plan = _read(folder, "results.json"), _read(folder, "plan.json")
    assert results["method"] == method
    ablations = {"lora_off"} | ({"prefix_off"} if method != "lora" else set())
    assert set(results["ablation_means"]) == ablations
    for task in plan["tasks"]:
        found = results["tasks"][task["name"]]
        assert found["rows"] == task["reported"] == 10
        assert found["all"][found["metric"]] == found["value"]
        assert set(found["all"]) <= set(METRICS)
        assert ablations <= set(found)
    values = [task["value"] for task in results["tasks"].values()]
    assert results["mean"] == pytest.approx(sum(values) / len(values))
    guesses = [task["majority"] for task in results["tasks"].values()]
    assert results["majority_mean"] == pytest.approx(sum(guesses) / len(guesses))
    cost = results["cost"]
    phases = {"search", "train"} if method == "peml" else {"train"}
    assert cost["steps"] == {phase: plan["steps"][phase] for phase in phases}
    # Epochs see every row once, so two of them have twice the tokens of one.
    assert sum(cost["tokens"].values()) == 2 * plan["tokens_per_epoch"]
    assert phases | {"evaluate", "export"} <= set(cost["seconds"])
    assert min(cost["seconds"].values()) > 0
    assert sum(cost["trainable_parameters"].values()) == cost["total_trainable_parameters"]
    assert cost["peak_memory_bytes"] > 2**20


@pytest.mark.parametrize("family", FAMILIES)
def test_the_results_can_be_recomputed_from_the_predictions(runs: Runs, family: str) -> None:
    folder = runs(family, "lora")
    for name, found in _read(folder, "results.json")["tasks"].items():
        kept = read_predictions(folder, name)
        assert kept.metrics() == found["all"]
        assert kept.majority()[found["metric"]] == found["majority"]
        assert kept.rows == list(range(found["rows"]))


@pytest.mark.parametrize(("family", "method"), _ALL)
def test_the_report_shows_the_run(runs: Runs, family: str, method: str) -> None:
    folder = runs(family, method)
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for task in _read(folder, "results.json")["tasks"]:
        assert task in markdown
        assert task in page
    if method != "lora":
        for operation in _read(folder, "genotype.json")["cells"]:
            assert operation in markdown


@pytest.mark.parametrize(("family", "method"), _ALL)
def test_what_should_have_moved_moved(runs: Runs, family: str, method: str) -> None:
    folder = runs(family, method)
    prepared = prepare(RunFolder(folder).config())
    before = attach(prepared, torch.device("cpu"), None).trainable_state()
    last = sorted(folder.glob("checkpoints/step-*"))[-1]
    after = load_file(last / "trainable.safetensors")
    lora = [name for name in after if ".lora_" in name]
    assert lora
    for name in lora:
        if ".lora_B." in name:
            assert after[name].any(), name
        assert not torch.equal(after[name], before[name]), name
    if family == "encoder":
        assert not torch.equal(after["base.heads.weight"], before["base.heads.weight"])
    if method != "lora":
        tensor = load_file(folder / "model" / "prefix.safetensors")["prefix"]
        frame = "added.prefix.network.frame"
        start = after[f"{frame}.base"] + after[f"{frame}.offset"]
        active = _read(folder, "genotype.json")["layers"]
        moved = (tensor - start)[active].abs().amax(dim=(2, 3, 4))
        assert (moved > 0).all()  # keys and values of every layer that has a prefix


@pytest.mark.parametrize("family", FAMILIES)
def test_decisions_move_once_the_warm_up_is_over(runs: Runs, family: str) -> None:
    folder = runs(family, "peml")
    config = RunFolder(folder).config()
    steps = _read(folder, "plan.json")["steps"]["search"]
    search = config.method.model_dump()["search"]
    lines = list(_log(folder, "decisions"))
    start = lines[0]["weights"]
    assert start["cell.0"] == pytest.approx(
        dict.fromkeys(start["cell.0"], 1 / len(start["cell.0"]))
    )
    assert start["layer.0"]["on"] == pytest.approx(1 / (1 + exp(-search["lead"])), abs=1e-6)
    for line in lines:
        stayed = [
            value == pytest.approx(start[name][option], abs=1e-6)
            for name, weights in line["weights"].items()
            for option, value in weights.items()
        ]
        assert all(stayed) == (line["step"] <= int(search["warmup"] * steps))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_genotype_is_what_the_discretisation_chose(runs: Runs, family: str) -> None:
    folder = runs(family, "peml")
    (line,) = _log(folder, "discretise")
    genotype = _read(folder, "genotype.json")
    assert line["gap"] == pytest.approx(line["hard"]["mean"] - line["soft"]["mean"])
    cells = [line["choices"][f"cell.{index}"] for index in range(2)]
    assert genotype["cells"] == cells
    assert str(genotype["length"]) == line["choices"]["length"]
    layers = len(genotype["layers"])
    assert genotype["layers"] == [line["choices"][f"layer.{i}"] == "on" for i in range(layers)]


@pytest.mark.parametrize(("family", "method"), _ALL)
def test_the_loss_falls(runs: Runs, family: str, method: str) -> None:
    lines = [line["task_losses"] for line in _log(runs(family, method), "step")]
    losses = [sum(tasks.values()) / len(tasks) for tasks in lines]
    third = len(losses) // 3
    assert sum(losses[-third:]) < 0.95 * sum(losses[:third])


def test_only_safetensors_and_text_are_written(runs: Runs) -> None:
    for family, method in _ALL:
        for path in runs(family, method).rglob("*"):
            assert path.suffix not in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}, path


def test_nothing_in_the_source_unpickles() -> None:
    for path in Path(peml.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for word in ("torch.load(", "import pickle", "pickle.load", "joblib", "torch.save("):
            assert word not in text, f"{path}: {word}"


def test_a_given_genotype_is_trained_without_a_search(
    runs: Runs, toys: Path, tmp_path: Path
) -> None:
    found = runs("encoder", "peml") / "genotype.json"
    config = load_config(toy_config(toys, "encoder", "peml"), [f"method.search.genotype={found}"])
    run = fit(config, tmp_path / "run")
    assert "search" not in run.results.cost.steps
    assert "architecture" not in run.results.cost.trainable_parameters
    assert _read(run.folder, "genotype.json") == _read(found.parent, "genotype.json")
    assert not _log(run.folder, "discretise")
    assert not _log(run.folder, "decisions")
