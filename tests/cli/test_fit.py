"""`peml fit` as a command: the dry run, the second call, a folder in use."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.records.run import Results
from peml.run.folder import RunFolder
from peml.run.listener import RunStopped
from peml.run.pipeline import fit
from tests.cli.commands import content, peml
from tests.e2e.toy import toy_config

Capture = pytest.CaptureFixture[str]


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, more = toy_config(toys), "training.epochs=3"
    monkeypatch.chdir(tmp_path)
    said = peml(capsys, "fit", config, "--dry-run")
    assert said.code == 0
    for word in ("mood", "pair-classification", "pearson", "36", "10"):
        assert word in said.out
    assert "batches per epoch: 18" in said.out
    assert "steps: search 14, train 22" in said.out
    assert "lora 3,328, prefix" in said.out
    assert "! 36 steps are few" in said.out
    assert "steps are few" not in peml(capsys, "fit", config, "--dry-run", "--set", more).out
    assert not list(tmp_path.rglob("*"))


def test_a_dry_run_tells_of_rows_that_make_scores_wrong(toys: Path, capsys: Capture) -> None:
    config = toy_config(toys, model={"max_length": 8})
    said = " ".join(peml(capsys, "fit", config, "--dry-run").out.split())
    assert "of 10 rows of mood's reported split are also in its train split: its score is" in said
    assert re.search(r"! \d+ rows of ending, \d+ of .* \d+ of its 10 reported ones, are cut", said)


@pytest.mark.e2e
def test_a_run_on_its_own_test_rows_says_so_at_start_end_and_in_the_report(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    tasks = {"include": ["mood"], "exclude": []}
    config = toy_config(toys, method="lora", tasks=tasks, training={"epochs": 1})
    told = r"! (\d+ of 10 rows of mood's reported split are also in its train split: its score is)"
    with pytest.raises(RunStopped):
        fit(load_config(config), tmp_path / "run", on_evaluation=lambda _: True)
    resumed = peml(capsys, "fit", config, "--output", tmp_path / "run").out
    assert "continuing after step" in resumed
    assert "batches per epoch" not in resumed
    assert len(re.findall(told, resumed)) == 2
    assert resumed.index("! ") < resumed.index("peak memory") < resumed.rindex("! ")
    sentence = re.findall(told, resumed)[0]
    for name in ("report.md", "report.html"):
        text = (tmp_path / "run" / name).read_text(encoding="utf-8").replace("&#39;", "'")
        assert 0 < text.index(sentence) < text.index("reaches a mean of")

    new = peml(capsys, "fit", config, "--output", tmp_path / "new").out
    assert new.index("batches per epoch") < new.index("! ") < new.index("development mean")
    assert new.rindex("! ") > new.index("peak memory")
    assert len(re.findall(told, new)) == 2


def test_a_dry_run_refuses_what_the_run_would_refuse(toys: Path, capsys: Capture) -> None:
    config = toy_config(toys)
    said = peml(capsys, "fit", config, "--dry-run", "--set", "training.learning_rates={lorra: 1.0}")
    assert said.code == 2
    assert "Did you mean 'lora'?" in said.error


@pytest.mark.e2e
def test_a_finished_run_is_left_alone(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    config, run = toy_config(toys, method="lora"), tmp_path / "run"
    assert peml(capsys, "fit", config, "--output", run).code == 0
    before = content(run)

    again = peml(capsys, "fit", run / "config.yaml")  # goes on in its own folder
    assert again.code == 0
    assert "nothing to do" in again.out
    assert content(run) == before

    other = peml(capsys, "fit", config, "--output", run, "--set", "training.epochs=3")
    assert other.code == 2
    assert "training.epochs was 2.0 and is 3.0" in other.error
    assert content(run) == before

    (run / "report.html").unlink()  # only the report is missing: only it is made
    assert peml(capsys, "fit", config, "--output", run).code == 0
    assert content(run).keys() == before.keys()
    assert content(run)["model/manifest.json"] == before["model/manifest.json"]


@pytest.mark.e2e
def test_a_model_can_be_saved_after_a_run_that_did_not(
    toys: Path, tmp_path: Path, capsys: Capture, unrendered: None
) -> None:
    config, bare, whole = toy_config(toys, method="lora"), tmp_path / "bare", tmp_path / "whole"
    first = peml(capsys, "fit", config, "--set", "export=false", "--output", bare)
    assert not (bare / "model").exists()
    assert f"peml fit {bare / 'config.yaml'} --set export=true" in " ".join(first.out.split())
    results, predictions = Results.read(bare), content(bare / "predictions")
    emptied = shutil.copytree(bare, tmp_path / "emptied")

    later = peml(capsys, "fit", bare / "config.yaml", "--set", "export=true")
    assert later.code == 0
    assert "Model:  " + str(bare / "model") in later.out
    assert load_config(bare / "config.yaml").export
    assert peml(capsys, "fit", config, "--output", whole).code == 0
    assert (
        content(bare / "model")["heads.safetensors"][0]
        == content(whole / "model")["heads.safetensors"][0]
    )
    now = Results.read(bare)
    assert now.tasks == results.tasks
    assert now.cost.steps == results.cost.steps
    assert now.cost.seconds["evaluate"] == results.cost.seconds["evaluate"]
    assert now.export is not None
    assert content(bare / "predictions") == predictions  # nothing was scored again
    assert "nothing to do" in peml(capsys, "fit", bare / "config.yaml").out

    steps = sorted((emptied / "checkpoints").glob("step-*"))
    for removed in (steps[-1], emptied / "checkpoints"):  # an earlier one would train further
        assert len(steps) > 1
        shutil.rmtree(removed)
        before = content(emptied)
        refused = peml(capsys, "fit", emptied / "config.yaml", "--set", "export=true")
        assert refused.code == 2
        assert "has neither a model nor its last checkpoint" in refused.error
        assert content(emptied) == before


@pytest.mark.e2e
def test_a_run_in_progress_keeps_others_out(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    config = toy_config(toys, method="lora")
    assert peml(capsys, "fit", config, "--output", tmp_path / "run").code == 0
    (tmp_path / "run" / "results.json").unlink()
    before = content(tmp_path / "run")
    with RunFolder(tmp_path / "run").locked():
        said = peml(capsys, "fit", config, "--output", tmp_path / "run")
    assert said.code == 2
    assert "another process is working in" in said.error
    assert content(tmp_path / "run").keys() == before.keys()


def test_a_folder_of_something_else_is_refused(toys: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    said = peml(capsys, "fit", toy_config(toys), "--output", tmp_path)
    assert said.code == 2
    assert "is no run folder" in said.error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_config_commands_describe_and_complete_a_config(toys: Path, capsys: Capture) -> None:
    schema = peml(capsys, "config", "schema")
    assert '"additionalProperties": false' in schema.out
    assert "learning_rates" in schema.out
    shown = peml(capsys, "config", "show", toy_config(toys), "--set", "seed=5")
    assert "seed: 5" in shown.out
    assert "quietness: 4.0" in shown.out
