"""`peml tune` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from peml.config.loading import load_config
from tests.cli.commands import content, peml
from tests.tuning.studies import RATE, study_file

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(toys: Path, tmp_path: Path) -> Path:
    return study_file(toys, tmp_path / "mine.yaml", budget={"trials": 2})


def test_a_study_from_plan_to_best_config(capsys: Capture, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    planned = peml(capsys, "tune", config, "--output", folder, "--dry-run")
    assert planned.code == 0
    assert f"{RATE}" in planned.out
    assert "0.0001 to 0.1, log" in planned.out
    assert not folder.exists()
    done = peml(capsys, "tune", config, "--output", folder)
    assert done.code == 0
    assert done.out.count("finished trial") == 2
    assert "2 trials cost" in done.out
    assert str(folder / "best.yaml") in done.out
    best = load_config(folder / "best.yaml")
    assert best.tuning_cost is not None
    assert best.tuning_cost.trials == 2
    fitted = peml(capsys, "fit", folder / "best.yaml", "--output", tmp_path / "run")
    assert "settings tuned in 2 other runs:" in fitted.out
    for name in ("report.html", "report.md"):
        assert "Finding these settings took 2 other runs" in (tmp_path / "run" / name).read_text()
    trials = content(folder / "trials")
    more = peml(capsys, "tune", config, "--output", folder, "--set", "budget.trials=3")
    assert more.out.count("finished trial") == 1
    assert content(folder / "trials").items() >= trials.items()
    (folder / "report.html").unlink()
    told = peml(capsys, "tune", folder / "study.yaml", "--report")  # goes on in its own folder
    assert told.out.count("finished trial") == 0
    assert (folder / "report.html").is_file()


def test_mistakes_end_with_one_message(capsys: Capture, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    refused = peml(capsys, "tune", config, "--output", folder)
    assert (refused.code, "exists and is no study's folder" in refused.error) == (2, True)
    refused = peml(capsys, "tune", config, "--output", tmp_path / "none", "--report")
    assert (refused.code, "holds no study to report" in refused.error) == (2, True)
    raw = yaml.safe_load(config.read_text())
    raw["space"] = {"training.learning_rates.loar": {"low": 0.1, "high": 1.0}}
    config.write_text(yaml.safe_dump(raw))
    refused = peml(capsys, "tune", config, "--output", tmp_path / "new")
    assert refused.code == 2
    assert "names the group 'loar'" in refused.error
    assert "Did you mean 'lora'?" in refused.error
    assert not (tmp_path / "new").exists()


def test_a_study_that_changed_is_refused_and_stays_as_it_was(
    capsys: Capture, config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    peml(capsys, "tune", config, "--output", folder, "--set", "budget.trials=1")
    before = content(folder)
    for change, words in (
        ("run.training.epochs=2", "run.training.epochs was 1.0 and is 2.0"),
        ("sampler.seed=1", "sampler.seed was 0 and is 1"),
        ("storage.url=sqlite:///x.db", "storage.url was None and is 'sqlite:///x.db'"),
    ):
        refused = peml(capsys, "tune", config, "--output", folder, "--set", change)
        assert refused.code == 2
        assert words in refused.error
    assert content(folder) == before
    assert json.loads((folder / "study.json").read_text())["budget"]["trials"] == 1
