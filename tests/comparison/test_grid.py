"""The learning-rate grid chooses on the development split, and says when it can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peml.comparison.choices import Choice, choose_values
from peml.comparison.pipeline import compare
from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison
from peml.comparison.studies import first_trials
from tests.comparison.quick import comparison_file, grid_study
from tests.e2e.toy import METHODS

ONE_METHOD = {"lora": METHODS["lora"]}


def config(**tuning: Any) -> ComparisonConfig:
    raw = {"run": {"tasks": {"suite": "glue"}}, "methods": {"lora": None}}
    return parse_comparison(raw | ({"tuning": tuning} if tuning else {}))


def matched(config: ComparisonConfig) -> dict[str, Any]:
    return {"glue": dict(config.methods)}


def chosen(folder: Path) -> Choice:
    return choose_values(config(), folder, matched(config()))["glue", "lora"]


def test_grid_runs_are_short_and_never_see_the_reported_split() -> None:
    several = config(factors=[0.1, 10], epochs=0.5, seed=7)
    (cell,) = first_trials(several, matched(several))
    run = cell.config
    assert run.training.learning_rate_factor == 0.1
    assert run.evaluation.split == "development"
    assert run.training.epochs == 0.5
    assert run.seed == 7
    assert not run.evaluation.ablations
    assert not run.export


@pytest.mark.parametrize(
    ("means", "factor"),
    [
        ([0.5, 0.6, 0.7], 2),
        ([0.7, 0.6, 0.5], 0.5),
        ([0.6, 0.6, 0.6], 1),  # equally good: as configured
        ([0.6, 0.5, 0.6], 0.5),  # equally near to it: the first
        ([0.9, None, 0.5], 0.5),
        ([None, None, 0.1], 2),
    ],
)
def test_the_best_mean_wins(tmp_path: Path, means: list[float | None], factor: float) -> None:
    tried = dict(zip((0.5, 1.0, 2.0), means, strict=True))
    grid_study(tmp_path, "glue", "lora", {f: tried[f] for f in (2.0, 0.5, 1.0)})  # as drawn
    choice = chosen(tmp_path)
    assert choice.factor == factor
    assert [run.factor for run in choice.grid] == [0.5, 1, 2]


def test_where_all_failed_there_is_a_reason(tmp_path: Path) -> None:
    grid_study(tmp_path, "glue", "lora", {0.5: None, 1.0: None, 2.0: None})
    choice = chosen(tmp_path)
    assert choice.factor is None
    assert choice.reason == "no run of the learning-rate grid worked: it diverged"


def test_an_unfinished_grid_chooses_nothing(tmp_path: Path) -> None:
    assert chosen(tmp_path).reason == "the learning-rate grid is not finished"
    grid_study(tmp_path, "glue", "lora", {0.5: 0.9, 1.0: 0.8})
    assert chosen(tmp_path).factor is None


def test_one_factor_needs_no_grid(tmp_path: Path) -> None:
    one = config(factors=[0.3])
    assert first_trials(one, matched(one)) == []
    assert choose_values(one, tmp_path, matched(one))["glue", "lora"].factor == 0.3


@pytest.mark.e2e
def test_a_failed_run_of_the_grid_is_tried_again_and_the_others_are_kept(
    toys: Path, tmp_path: Path
) -> None:
    tuning = {"factors": [0.5, 1], "epochs": 0.5}
    top: dict[str, Any] = {"seeds": [0], "execution": {"kind": "inline"}, "tuning": tuning}
    settings = load_comparison(comparison_file(toys, tmp_path / "grid.yaml", ONE_METHOD, **top))
    folder = tmp_path / "out"
    row = compare(settings, folder).record.suites[0].rows[0]
    study = folder / "tuning" / "toy" / "lora"
    content = json.loads((study / "study.json").read_text())
    assert row.seconds["tuning"] == content["cost"]["seconds"] != 0
    assert (row.trials, row.tuned, len(row.grid)) == (0, {}, 2)
    kept, lost = (study / "trials" / number for number in ("0000", "0001"))
    before = (kept / "results.json").stat().st_mtime_ns

    (folder / "cells").rename(tmp_path / "cells")
    lost.rename(tmp_path / "lost")
    lost.with_suffix(".json").write_text('{"status": "failed", "reason": "no memory"}')
    again = compare(settings, folder, retry_failed=True)
    assert again.unfinished == []
    assert again.record.suites[0].rows[0].grid[0].mean == row.grid[0].mean
    assert (lost / "results.json").is_file()
    assert (kept / "results.json").stat().st_mtime_ns == before
