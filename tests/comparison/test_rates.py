"""The learning-rate grid chooses on the development split, and says when it can't."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from peml.comparison import parse_comparison
from peml.comparison.cells import Cell, grid_of
from peml.comparison.rates import choose_factor
from tests.comparison.quick import finish


def grid(folder: Path, **tuning: Any) -> list[Cell]:
    raw = {"run": {"tasks": {"suite": "glue"}}, "methods": {"lora": None}}
    config = parse_comparison(raw | ({"tuning": tuning} if tuning else {}))
    return grid_of(config, folder, {"glue": dict(config.methods)})


def end(runs: list[Cell], means: list[float | None]) -> None:
    for cell, mean in zip(runs, means, strict=True):
        if mean is None:
            cell.folder.parent.mkdir(parents=True, exist_ok=True)
            cell.fail("it diverged")
        else:
            finish(cell.folder, {}, {"mood": mean})


def test_grid_runs_are_short_and_never_see_the_reported_split(tmp_path: Path) -> None:
    runs = grid(tmp_path, factors=[0.1, 10], epochs=0.5, seed=7)
    assert [run.config.training.learning_rate_factor for run in runs] == [0.1, 10]
    for run in runs:
        assert run.config.evaluation.split == "development"
        assert run.config.training.epochs == 0.5
        assert run.config.seed == 7
        assert not run.config.evaluation.ablations
        assert not run.config.export
    assert runs[0].folder == tmp_path / "tuning/glue/lora/factor-0.1"


@pytest.mark.parametrize(
    ("means", "factor"),
    [
        ([0.5, 0.6, 0.7], 2),
        ([0.7, 0.6, 0.5], 0.5),
        ([0.6, 0.6, 0.6], 1),  # equally good: as configured
        ([0.9, None, 0.5], 0.5),
        ([math.nan, None, 0.1], 2),
    ],
)
def test_the_best_mean_wins(tmp_path: Path, means: list[float | None], factor: float) -> None:
    runs = grid(tmp_path)
    end(runs, means)
    assert choose_factor(runs).factor == factor


def test_where_all_failed_there_is_a_reason(tmp_path: Path) -> None:
    runs = grid(tmp_path)
    end(runs, [None, None, None])
    choice = choose_factor(runs)
    assert choice.factor is None
    assert choice.reason == "no run of the learning-rate grid worked: it diverged"


def test_an_unfinished_grid_chooses_nothing(tmp_path: Path) -> None:
    runs = grid(tmp_path)
    end(runs[:2], [0.9, 0.8])
    assert choose_factor(runs).factor is None


def test_one_factor_needs_no_grid(tmp_path: Path) -> None:
    assert grid(tmp_path, factors=[0.3]) == []
