"""Tuning trials in a comparison: the same number for every method, and only what may differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.comparison.pipeline import compare
from peml.comparison.planning import plan_comparison
from peml.comparison.settings import load_comparison, parse_comparison
from peml.errors import ConfigError
from tests.cli.commands import content
from tests.comparison.quick import ADAPTER, comparison_file
from tests.e2e.toy import METHODS

RATE = {"low": 0.5, "high": 2.0, "log": True}
SPACE: dict[str, Any] = {
    "training.learning_rate_factor": RATE,
    "method.lora.dropout": {"low": 0.0, "high": 0.5, "methods": ["lora"]},
}


def tuned(toys: Path, path: Path, **tuning: Any) -> Path:
    methods = {"lora": METHODS["lora"], "mtl-lora": ADAPTER}
    sections = {"trials": 2, "space": SPACE, "sampler": {"name": "random"}} | tuning
    return comparison_file(
        toys, path, methods, seeds=[0], tuning=sections, execution={"kind": "inline"}
    )


def problem(toys: Path, path: Path, **tuning: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_comparison(load_comparison(tuned(toys, path, **tuning)))
    return str(caught.value)


@pytest.mark.e2e
def test_every_method_gets_its_trials_and_the_best_values(toys: Path, tmp_path: Path) -> None:
    path = tuned(toys, tmp_path / "tuned.yaml")
    comparison = compare(load_comparison(path), tmp_path / "out")
    assert comparison.unfinished == []
    for row in comparison.record.suites[0].rows:
        label = row.label
        study = json.loads((tmp_path / f"out/tuning/toy/{label}/study.json").read_text())
        assert [trial["state"] for trial in study["trials"]] == ["finished"] * 2
        best = max(study["trials"], key=lambda trial: trial["objectives"][0])
        assert row.tuned == best["values"]
        assert row.trials == 2
        assert row.seconds["tuning"] == study["cost"]["seconds"] != 0
        cell = yaml.safe_load((tmp_path / f"out/cells/toy/{label}-seed0/config.yaml").read_text())
        factor = best["values"]["training.learning_rate_factor"]
        assert cell["training"]["learning_rate_factor"] == factor == row.factor
        assert ("method.lora.dropout" in best["values"]) == (label == "lora")
    before = content(tmp_path / "out" / "tuning")
    compare(load_comparison(path), tmp_path / "out")
    assert content(tmp_path / "out" / "tuning") == before
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Tuning trials" in page
    assert 'href="tuning/toy/lora/report.html"' in page
    assert "Learning-rate grid" not in page
    assert "2 trials per method (random)" in (tmp_path / "out" / "report.md").read_text()


def test_the_space_may_be_a_file(toys: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    config = load_comparison(tuned(toys, tmp_path / "x.yaml", space="space.yaml"))
    assert config == load_comparison(tuned(toys, tmp_path / "y.yaml"))
    assert config.tuning is not None
    again = parse_comparison(config.model_dump(mode="json"))
    assert again.tuning == config.tuning


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"space": None}, "trials and space belong together"),
        ({"factors": [1.0, 2.0]}, "give factors, or trials and space, not both"),
        ({"space": {"training.epochs": [1, 2]}}, "tuning.space.training.epochs: all methods share"),
        ({"space": {"batches.rows": [8, 16]}}, "tuning.space.batches.rows: all methods share"),
        (
            {"space": {"method.lora.dropout": [0.0, 0.1]}},
            "mtl-lora: the space does not fit the run config:\n  space.method.lora.dropout",
        ),
        (
            {"space": {"method.lora.dropout": {"choices": [0.0, 0.1], "methods": ["loar"]}}},
            "names the method 'loar', which is not compared. Did you mean 'lora'?",
        ),
        ({"space": {"training.learning_rate_factor": {"low": 2, "high": 1}}}, "reversed"),
        ({"space": {"training.learning_rates.prefix": [0.1, 0.2]}}, "names the group 'prefix'"),
    ],
)
def test_a_space_that_does_not_suit_is_refused(
    toys: Path, tmp_path: Path, tuning: dict[str, Any], words: str
) -> None:
    assert words in problem(toys, tmp_path / "bad.yaml", **tuning)


def test_trials_do_not_undo_matched_sizes(toys: Path, tmp_path: Path) -> None:
    space = {"method.lora.r": {"choices": [4, 8], "methods": ["lora"]}}
    path = tuned(toys, tmp_path / "sizes.yaml", space=space)
    plan_comparison(load_comparison(path))
    with pytest.raises(ConfigError, match="the space changes sizes that are matched"):
        plan_comparison(load_comparison(path, ["match=parameters", "budget=3500"]))


@pytest.mark.e2e
def test_without_a_working_trial_the_cells_fail_with_the_reason(toys: Path, tmp_path: Path) -> None:
    space = {"training.learning_rate_factor": {"low": 1e6, "high": 2e6, "methods": ["lora"]}}
    path = tuned(toys, tmp_path / "wild.yaml", space=space)
    comparison = compare(load_comparison(path), tmp_path / "out")
    (cell,) = comparison.unfinished
    assert cell.reason.startswith("no tuning trial worked: training diverged")
    rows = {row.label: row for row in comparison.record.suites[0].rows}
    assert rows["mtl-lora"].cells[0].status == "finished"
    assert rows["mtl-lora"].trials == 0
