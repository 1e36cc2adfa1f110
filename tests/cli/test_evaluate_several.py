"""`peml evaluate` of several runs: a line each, and what makes them no fair comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from peml.evaluation import read_predictions
from peml.evaluation.predictions import write_predictions
from tests.cli.commands import peml, rescored

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.e2e


def test_several_runs_have_a_line_each(
    run: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    alone = tmp_path / "alone.json"
    assert peml(capsys, "evaluate", other, "--json", alone).code == 0
    said = peml(capsys, "evaluate", run, other, "--json", tmp_path / "out.json")
    assert said.code == 0, said
    found = json.loads((tmp_path / "out.json").read_text())
    assert [each["folder"] for each in found["runs"]] == [str(run), str(other)]
    assert found["runs"][1]["tasks"] == json.loads(alone.read_text())["tasks"]
    means = [each["mean"]["value"] for each in found["runs"]]
    assert means[0] < means[1]
    for mean in means:
        assert f"{mean:.3f}" in said.out
    assert found["same_rows"]
    assert "can't be compared" not in said.out


def test_runs_of_other_rows_are_marked_in_the_table(
    run: Path, other: Path, capsys: Capture
) -> None:
    kept = read_predictions(other, "mood")
    flipped = [1 - int(gold) for gold in kept.gold]
    rescored(other, "mood", gold=flipped)
    assert "can't be compared" in peml(capsys, "evaluate", run, other).out
    assert "can't be compared" not in peml(capsys, "evaluate", run, other, "--task", "same").out
    same = read_predictions(other, "same")
    newer = same.task.model_copy(update={"version": 2})
    write_predictions(other, replace(same, task=newer))
    assert "can't be compared" in peml(capsys, "evaluate", run, other, "--task", "same").out


@pytest.mark.parametrize("options", [(), ("--paired",)])
def test_runs_that_were_scored_in_different_ways_are_told(
    options: tuple[str, ...], run: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["evaluation"]["scoring"] = {"normalisation": "bytes"}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    results = json.loads((other / "results.json").read_text())
    results["precision"]["compute"] = "bf16"
    (other / "results.json").write_text(json.dumps(results))
    said = peml(capsys, "evaluate", run, other, *options, "--json", tmp_path / "out.json")
    ways = ["evaluation.scoring.normalisation is none and bytes", "training.precision is fp32 and"]
    assert "scored in different ways: " + "; ".join(ways) in said.out
    assert json.loads((tmp_path / "out.json").read_text())["differing"] == [
        ways[0],
        f"{ways[1]} bf16",
    ]
    assert "different ways" not in peml(capsys, "evaluate", run, run, *options).out
