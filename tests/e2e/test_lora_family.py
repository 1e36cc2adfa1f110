"""`peml fit` with the rest of the LoRA family, with everything training, and with nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from peml.cli import main
from tests.e2e.apart import Moment, fit_apart
from tests.e2e.toy import FAMILIES, Row, toy_config

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("unrendered")]

_LORA: Row = {"r": 4, "alpha": 8, "learning_rate": 0.01}
_RANKS: Row = {"init_r": 4, "target_r": 2, "learning_rate": 0.02}
_METHODS: dict[str, Row] = {
    "rslora": {"name": "rslora", "lora": _LORA},
    "dora": {"name": "dora", "lora": _LORA},
    "adalora": {"name": "adalora", "lora": _RANKS},
    "full": {"name": "full", "learning_rate": 0.001},
    "frozen": {"name": "frozen"},
}
_ADAPTERS = ("rslora", "dora", "adalora")
# LoRA's other scalings go the same way on every family; what prunes or trains all may not.
_RUNS = [("causal", "rslora"), ("seq2seq", "dora"), *product(FAMILIES, ("adalora", "full"))]

Fit = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def fitted(toys: Path) -> Fit:
    """Finished runs by family and method, made when first asked for."""

    def fit(family: str, method: str) -> Path:
        folder = toys / "lora-family" / f"{family}-{method}"
        if not folder.exists():
            training = {"epochs": 1, "keep": "last"}
            config = toy_config(toys, family, _METHODS[method], training=training)
            with pytest.raises(SystemExit) as ended:
                main(["fit", str(config), "--output", str(folder)])
            assert ended.value.code == 0
        return folder

    return fit


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def _backbones(fitted: Fit, toys: Path, family: str, method: str) -> tuple[Any, Any]:
    """Weights of the final model and of the one it was made from."""
    name = "model.safetensors"
    final = load_file(fitted(family, method) / "model" / "backbone" / name)
    return final, load_file(toys / FAMILIES[family] / name)


@pytest.mark.parametrize(("family", "method"), [*_RUNS, *product(FAMILIES, ["frozen"])])
def test_a_run_ends_with_results_and_a_report(fitted: Fit, family: str, method: str) -> None:
    folder = fitted(family, method)
    results, plan = _read(folder, "results.json"), _read(folder, "plan.json")
    assert results["merging"] == "once"
    assert not results["needs_task_id"]
    assert set(results["ablation_means"]) == ({"lora_off"} if method in _ADAPTERS else set())
    cost = results["cost"]
    assert cost["steps"] == ({"train": plan["steps"]["train"]} if plan["steps"]["train"] else {})
    assert cost["trainable_parameters"] == plan["trainable_parameters"]
    assert (plan["steps"]["train"] > 0) == bool(plan["trainable_parameters"])
    for name in ("report.md", "report.html", "metrics.jsonl", "model/manifest.json"):
        assert (folder / name).is_file()
    assert (folder / "model" / "lora").is_dir() == (method in _ADAPTERS)


@pytest.mark.parametrize(("family", "method"), _RUNS)
def test_training_changes_the_merged_weights(
    fitted: Fit, toys: Path, family: str, method: str
) -> None:
    final, start = _backbones(fitted, toys, family, method)
    moved = {name for name in final if not torch.equal(final[name], start[name])}
    embeddings = [n for n in moved if "embed" in n or "shared" in n]
    assert moved
    assert bool(embeddings) == (method == "full")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_model_stays_as_it_is(fitted: Fit, toys: Path, family: str) -> None:
    folder = fitted(family, "frozen")
    final, start = _backbones(fitted, toys, family, "frozen")
    assert all(torch.equal(final[name], start[name]) for name in final)
    groups = set(_read(folder, "plan.json")["trainable_parameters"])
    assert groups == ({"heads"} if family == "encoder" else set())
    assert bool(list(folder.glob("checkpoints/*"))) == (family == "encoder")


@pytest.mark.parametrize("family", FAMILIES)
def test_adalora_ends_with_its_budget_of_ranks(fitted: Fit, family: str) -> None:
    config = _read(fitted(family, "adalora"), "model/lora/adapter_config.json")
    ranks = [sum(pattern) for pattern in config["rank_pattern"].values()]
    assert sum(ranks) == _RANKS["target_r"] * len(ranks)


def test_a_frozen_text_model_can_be_planned_and_called_again(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy_config(toys, "causal", _METHODS["frozen"])
    for arguments in (["--dry-run"], ["--output", str(tmp_path / "run")]):
        with pytest.raises(SystemExit) as ended:
            main(["fit", str(config), *arguments])
        assert ended.value.code == 0
    assert "train 0" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(config), "--output", str(tmp_path / "run")])
    assert ended.value.code == 0
    assert "nothing to do" in capsys.readouterr().out


def test_adalora_on_too_short_a_run_is_one_clear_message_and_no_folder(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"epochs": 0.05, "accumulation": 1}
    config = toy_config(toys, "causal", _METHODS["adalora"], training=training)
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(config), "--output", str(tmp_path / "run")])
    assert ended.value.code != 0
    assert "AdaLoRA can't prune" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_adalora_killed_before_while_and_after_it_prunes_ends_the_same(
    toys: Path, tmp_path: Path
) -> None:
    method: Row = {"name": "adalora", "lora": _RANKS | {"dropout": 0.1, "delta_t": 2}}
    training = {"epochs": 2, "checkpoint_every": 3, "log_every": 3}
    config = toy_config(toys, "encoder", method, training=training)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fit_apart(config, whole) == 0
    # About forty steps: the first tenth and the last four tenths don't prune.
    for steps in (4, 12, 14):
        assert fit_apart(config, killed, Moment("peml.run.listener.RunListener.on_step", steps)) < 0
    assert fit_apart(config, killed) == 0
    for name in ("metrics.jsonl", "model/lora/adapter_config.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    checkpoints = sorted((whole / "checkpoints").glob("*/*.safetensors"))
    assert checkpoints
    for path in checkpoints:
        other = killed / path.relative_to(whole)
        assert other.read_bytes() == path.read_bytes(), path.relative_to(whole)
