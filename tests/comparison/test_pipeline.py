"""Whole comparisons of toys: they run, fail in part, are killed, and go on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import peml
from peml.comparison.pipeline import Comparison, compare
from peml.comparison.settings import load_comparison
from peml.errors import PemlError
from peml.locks import lock_folder
from peml.records.comparison import RowRecord
from tests.cli.commands import content
from tests.comparison.quick import ADAPTER, WILD, comparison_file
from tests.e2e.apart import start_apart
from tests.e2e.toy import METHODS, Row

pytestmark = pytest.mark.usefixtures("quick_processes")


def config(toys: Path, **top: Any) -> Path:
    methods = {"lora": METHODS["lora"], "mtl-lora": ADAPTER, "wild": WILD}
    return comparison_file(toys, toys / "three.yaml", methods, **{"focus": "mtl-lora", **top})


def scores(comparison: Comparison) -> dict[str, Any]:
    """Scores of all finished cells."""
    return {
        cell.folder: cell.tasks
        for suite in comparison.record.suites
        for row in suite.rows
        for cell in row.cells
        if cell.status == "finished"
    }


def row(comparison: Comparison, label: str) -> RowRecord:
    return next(row for row in comparison.record.suites[0].rows if row.label == label)


@pytest.fixture(scope="module")
def finished(toys: Path, quick_processes: None) -> Path:
    """A finished comparison of lora, mtl-lora and one that fails."""
    return peml.compare(config(toys), toys / "finished").folder


@pytest.mark.e2e
def test_one_that_fails_does_not_stop_the_rest(toys: Path, finished: Path) -> None:
    comparison = compare(load_comparison(config(toys)), finished, report_only=True)
    assert len(scores(comparison)) == 4
    assert {cell.status for cell in row(comparison, "wild").cells} == {"failed"}
    assert "diverged" in row(comparison, "wild").cells[0].reason
    assert row(comparison, "wild").mean is None
    assert [cell.folder for cell in comparison.unfinished] == [
        "cells/toy/wild-seed0",
        "cells/toy/wild-seed1",
    ]
    assert (row(comparison, "mtl-lora").latency or 0) > 0
    assert row(comparison, "wild").latency is None
    for name in ("report.html", "report.md", "tables/toy.md", "tables/toy.tex", "tables/toy.csv"):
        assert (finished / name).is_file()
    assert "cells/toy/lora-seed0" in (finished / "report.html").read_text()
    own = json.loads((finished / "cells/toy/lora-seed1/results.json").read_text())
    assert row(comparison, "lora").cells[1].mean == own["mean"]
    assert (finished / "cells/toy/wild-seed0.log").is_file()
    assert not (finished / "cells/toy/lora-seed0.log").exists()


@pytest.mark.e2e
def test_a_cells_report_is_drawn_by_fit_alone(finished: Path, tmp_path: Path) -> None:
    assert 'href="cells/toy/lora-seed0/report.md"' in (finished / "report.html").read_text()
    cell = Path(shutil.copytree(finished / "cells/toy/lora-seed0", tmp_path / "lora-seed0"))
    before = content(cell)
    assert "report.md" in before
    assert "report.html" not in before
    peml.fit(cell / "config.yaml", cell)
    added = content(cell)
    changed = {name for name in added if added[name] != before.get(name)}
    assert changed == {"report.html", "report.md"}
    assert added["report.md"][0] == before["report.md"][0]
    assert 'id="fig-' in (cell / "report.html").read_text()


@pytest.mark.e2e
def test_what_is_there_is_not_run_again(toys: Path, finished: Path) -> None:
    before = content(finished / "cells")
    latency = (finished / "latency.json").stat().st_mtime_ns
    again = compare(load_comparison(config(toys, jobs=3)), finished)
    assert content(finished / "cells") == before
    assert (finished / "latency.json").stat().st_mtime_ns == latency
    assert len(again.unfinished) == 2
    with pytest.raises(PemlError, match=r"run\.training\.epochs was 1\.0 and is 2\.0"):
        compare(load_comparison(config(toys), ["run.training.epochs=2"]), finished)
    with (
        lock_folder(finished),
        pytest.raises(PemlError, match="another process is working in"),
    ):
        compare(load_comparison(config(toys)), finished)


@pytest.mark.e2e
def test_a_failed_cell_runs_again_when_told_to(toys: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for path in (folder / "cells" / "toy").glob("mtl-lora-seed1*"):
        shutil.rmtree(path)
    (folder / "cells/toy/mtl-lora-seed1.json").write_text('{"reason": "no memory"}')
    settings = load_comparison(config(toys, keep_models=False))
    assert row(compare(settings, folder), "mtl-lora").cells[1].reason == "no memory"
    again = compare(settings, folder, retry_failed=True)
    assert row(again, "mtl-lora").cells[1].status == "finished"
    assert "diverged" in row(again, "wild").cells[0].reason
    assert not list(folder.glob("cells/*/*/model"))
    assert (row(again, "mtl-lora").latency or 0) > 0


@pytest.mark.e2e
def test_seeds_can_be_added_and_nothing_runs_twice(
    toys: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*/results.json")}
    grown = compare(load_comparison(config(toys, seeds=[0, 1, 5])), folder)
    assert len(row(grown, "lora").cells) == 3
    assert len(scores(grown)) == 6
    assert before == {path: path.stat().st_mtime_ns for path in before}
    compare(load_comparison(config(toys, seeds=[0, 1, 5])), folder, report_only=True)
    with pytest.raises(PemlError, match=r"seeds was \[0, 1, 5\] and is \[0, 1\]"):
        compare(load_comparison(config(toys)), folder)


def _compare(path: Path, folder: Path) -> None:
    compare(load_comparison(path), folder)


@pytest.mark.e2e
def test_a_killed_comparison_goes_on_and_comes_to_the_same(
    toys: Path, finished: Path, tmp_path: Path
) -> None:
    path, folder = config(toys), tmp_path / "killed"
    process = start_apart(_compare, path, folder)
    try:
        deadline = time.monotonic() + 200
        while not list(folder.glob("cells/*/*/plan.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    assert list(folder.glob("cells/*/*/plan.json"))
    assert not (folder / "comparison.json").exists()
    resumed = compare(load_comparison(path, ["jobs=2"]), folder)
    whole = compare(load_comparison(path), finished, report_only=True)
    assert scores(resumed) == scores(whole)
    assert len(scores(resumed)) == 4


@pytest.mark.e2e
def test_each_method_gets_the_best_of_its_grid(toys: Path, tmp_path: Path) -> None:
    methods = {"lora": METHODS["lora"], "wild": WILD}
    tuning = {"factors": [0.01, 1], "epochs": 0.5}
    path = comparison_file(toys, toys / "grid.yaml", methods, tuning=tuning, seeds=[3])
    comparison = compare(load_comparison(path), tmp_path / "grid")
    lora, wild = row(comparison, "lora"), row(comparison, "wild")
    best = max(lora.grid, key=lambda run: run.mean or 0.0)
    assert lora.factor == best.factor
    config = (tmp_path / "grid/cells/toy/lora-seed3/config.yaml").read_text()
    assert f"learning_rate_factor: {best.factor}" in config
    assert not list((tmp_path / "grid" / "tuning").glob("*/*/trials/*/model"))
    assert wild.factor is None
    assert wild.cells[0].reason.startswith("no run of the learning-rate grid worked: training")


def test_a_report_of_what_is_there_runs_nothing(toys: Path, tmp_path: Path) -> None:
    comparison = compare(load_comparison(config(toys)), tmp_path / "new", report_only=True)
    assert {cell.status for cell in comparison.unfinished} == {"missing"}
    assert len(comparison.unfinished) == 6
    assert not (tmp_path / "new" / "cells").exists()


def test_what_cannot_run_is_refused_before_anything_is_written(toys: Path, tmp_path: Path) -> None:
    methods: dict[str, Row] = {
        "lora": {"lora": {"target_modules": ["nothing"]}},
        "mtl-lora": {"target_modules": ["nowhere"]},
        "peml": METHODS["peml"],
    }
    path = comparison_file(toys, toys / "bad.yaml", methods)
    with pytest.raises(PemlError) as caught:
        compare(load_comparison(path), tmp_path / "new")
    for part in ("toy, lora: no linear layer", "toy, mtl-lora: no linear layer", "nowhere"):
        assert part in str(caught.value)
    assert "peml" not in str(caught.value)
    assert not (tmp_path / "new").exists()

    path = comparison_file(toys, toys / "rates.yaml", None)
    with pytest.raises(PemlError, match=r"toy, mtl-lora: .* names the group 'lora'"):
        compare(load_comparison(path, ["run.training.learning_rates={lora: 1}"]), tmp_path / "new")


def test_suites_that_cannot_be_used_are_told_together(toys: Path, tmp_path: Path) -> None:
    suite = str(toys / "suite.yaml")
    bad = {"one": {"suite": suite, "include": ["moood"]}, "two": {"suite": suite, "source": "gone"}}
    path = comparison_file(toys, toys / "suites.yaml", None, suites=bad)
    with pytest.raises(PemlError) as caught:
        compare(load_comparison(path), tmp_path / "new")
    assert "one: " in str(caught.value)
    assert "Did you mean 'mood'?" in str(caught.value)
    assert "two: " in str(caught.value)


def test_a_folder_of_something_else_is_refused(toys: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PemlError, match="is no comparison folder"):
        compare(load_comparison(config(toys)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
