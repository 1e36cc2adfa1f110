"""`peml init` writes files that run as they are, and overwrites none."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.data import select_tasks
from peml.data.sources import load_task_data
from tests.cli.commands import content, peml


@pytest.mark.parametrize("folder", ["", "my tasks/first"])
def test_the_files_are_a_config_a_task_and_ten_rows(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = peml(capsys, "init", *([folder] if folder else []))
    assert said.code == 0
    config = load_config(Path(folder) / "config.yaml")
    assert config.output == (f"{folder}/run" if folder else "run")
    (task,) = select_tasks(config.tasks)
    data = load_task_data(task, config.tasks, config.seed)
    assert len(data.train) + len(data.development) == 10
    assert len(data.reported) == 4
    assert f"peml fit {Path(folder) / 'config.yaml'}" in said.out


def test_nothing_is_overwritten_and_nothing_is_written_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tickets.yaml").write_text("mine")
    before = content(tmp_path)
    said = peml(capsys, "init", tmp_path)
    assert said.code == 2
    assert "tickets.yaml is there already" in said.error.replace("\n", " ")
    assert content(tmp_path) == before


@pytest.mark.parametrize("file", ["mine", "mine/tickets"])
def test_a_file_in_a_folders_place_stops_it_before_it_writes(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    before = content(tmp_path)
    said = peml(capsys, "init", tmp_path / "mine")
    assert said.code == 2
    assert f"{file} is there already" in said.error.replace("\n", "")
    assert content(tmp_path) == before


def test_the_task_file_is_shown_with_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peml(capsys, "init", tmp_path)
    said = peml(capsys, "tasks", "show", tmp_path / "tickets.yaml", "--row", 0)
    assert said.code == 0
    assert "tickets (version 1)" in said.out
    assert "Team (billing or technical):" in said.out


def test_the_first_run_has_enough_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    peml(capsys, "init")
    said = peml(capsys, "fit", "config.yaml", "--dry-run")
    assert "steps: search 0, train 50" in said.out
    assert "steps are few" not in said.out
