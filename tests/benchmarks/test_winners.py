"""How often each option wins, over made-up runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from tests.benchmarks.conftest import Script
from tests.examples.runs import write_example_run


def _run(folder: Path, cells: list[str], scores: dict[str, Any] | None = None) -> Path:
    """A run whose search ended with these cells."""
    write_example_run(folder)
    path = folder / "genotype.json"
    genotype = json.loads(path.read_text()) | {"cells": cells}
    if scores is not None:
        genotype["found_by"]["scores"] = scores
    path.write_text(json.dumps(genotype))
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "discretise":
            line["choices"] |= {f"cell.{number}": name for number, name in enumerate(cells)}
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_counts_over_runs(script: Script, tmp_path: Path) -> None:
    wanted = {"cell.0": {"skip": 0.2, "conv": 0.1}, "cell.1": {"skip": -0.1, "conv": 0.3}}
    folders = [
        _run(tmp_path / "a", ["conv", "skip", "mlp-gelu"]),
        _run(tmp_path / "b", ["skip", "skip", "skip"], wanted),
        _run(tmp_path / "c", ["conv", "linear", "conv"], wanted),
    ]
    winners = script("studies.search_stability").count_winners(folders)
    assert winners.runs == 3
    assert winners.operations() == {"skip": 4, "conv": 3, "mlp-gelu": 1, "linear": 1}
    assert winners.options["cell.0"] == {"conv": 2, "skip": 1}
    assert winners.options["length"] == {"16": 3}
    assert winners.collapsed == ["b"]
    assert winners.unwarranted == ["b: cell.1"]  # cell.0's skip has the best score of its cell
    assert winners.scored == 2
    assert winners.guarded == {"cell.1": 3}
    assert winners.undecided == {"length": 3}
    assert len(winners.gaps) == 3
    text = winners.markdown()
    assert "| skip | 1 | 2 | 1 | 4 |" in text
    assert "| length | 16 3 |" in text
    assert "* every cell skip: b\n" in text
    assert "* undecided, in how many runs: length 3\n" in text
    assert "(2 runs with scores): b: cell.1\n" in text


def test_a_run_without_a_search_is_refused(script: Script, tmp_path: Path) -> None:
    folder = write_example_run(tmp_path / "plain", search=False)
    stability = script("studies.search_stability")
    with pytest.raises(RunError, match="searched nothing"):
        stability.count_winners([folder])
