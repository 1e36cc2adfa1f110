"""`peml compare` as a command: the dry run, exit codes, messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import peml
from tests.comparison.quick import comparison_file
from tests.e2e.toy import METHODS
from tests.execution.quick import quick_processes

__all__ = ["quick_processes"]

Capture = pytest.CaptureFixture[str]


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = comparison_file(toys, toys / "plan.yaml", tuning={"factors": [0.5, 1]})
    monkeypatch.chdir(tmp_path)
    said = peml(capsys, "compare", config, "--dry-run")
    assert said.code == 0
    for word in ("Methods on toy", "mtl-lora", "r=4, alpha=8", "3,328", "not needed"):
        assert word in said.out
    assert "4 cells of 18 steps on toy" in said.out
    assert "learning-rate grid: 4 runs of 1 epochs, factors 0.5, 1" in said.out
    assert "of mood's reported split are also in its train split" in " ".join(said.out.split())
    assert not list(tmp_path.rglob("*"))


def test_mistakes_end_with_a_message_and_code_2(
    toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = comparison_file(toys, toys / "wrong.yaml", {"lorra": {}})
    said = peml(capsys, "compare", config, "--output", tmp_path / "out")
    assert said.code == 2
    assert "there is no method 'lorra'. Did you mean 'lora'?" in said.error

    config = comparison_file(toys, toys / "far.yaml", match="parameters", budget=100)
    said = peml(capsys, "compare", config, "--output", tmp_path / "out")
    assert said.code == 2
    assert "toy, lora: the nearest it can reach is" in said.error
    assert "toy, mtl-lora: the nearest it can reach is" in said.error
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_how_to_go_on(
    toys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("peml.comparison.pipeline.run_jobs", interrupt)
    said = peml(
        capsys, "compare", comparison_file(toys, toys / "stop.yaml"), "-o", tmp_path / "out"
    )
    assert said.code == 130
    assert "run the same command again to resume" in said.error


@pytest.mark.e2e
@pytest.mark.usefixtures("quick_processes")
def test_the_exit_code_says_whether_every_cell_finished(
    toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = comparison_file(toys, toys / "one.yaml", {"lora": METHODS["lora"]}, seeds=[0])
    command = ("compare", config, "--output", tmp_path / "out")
    said = peml(capsys, *command, "--report")
    assert said.code == 1
    assert "missing: cells/toy/lora-seed0" in said.out

    said = peml(capsys, *command, "--jobs", 2)
    assert said.code == 0
    assert "started  toy, lora, seed0" in said.out
    assert "(1/1)" in said.out
    assert "! lora: the mean holds scores of rows that were trained on: mood, same" in said.out
    assert "Report: " in said.out
    assert "missing" not in said.out
    assert "difference to" not in said.out  # there is no other method

    again = peml(capsys, "compare", tmp_path / "out/comparison.yaml")  # goes on in its own folder
    assert again.code == 0
    assert "1 of 1 cells have run already" in again.out
