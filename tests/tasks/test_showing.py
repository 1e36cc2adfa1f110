"""`peml tasks show SUITE/TASK` shows every task of every suite, with rows as a model sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from peml.cli.tasks import definitions
from peml.cli.tasks.command import tasks_app
from peml.tasks import TaskRenderer, list_suites
from tests.data.rows import write_jsonl
from tests.tasks.benchmark_rows import ROWS, bundled


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(definitions, "load_suite", bundled)  # each is read once


def test_every_suite_with_rows_of_its_own_is_covered() -> None:
    assert set(list_suites()) == {*ROWS, "demo"}


@pytest.mark.parametrize("suite", list_suites())
def test_every_task_is_shown_with_its_prompt(suite: str, tmp_path: Path) -> None:
    for task in bundled(suite).tasks:
        source = []
        if suite != "demo":
            rows = ROWS[suite][task.name]
            for split in (task.splits.train, *task.splits.reported):
                if split is not None:
                    write_jsonl(tmp_path / task.name / f"{split}.jsonl", rows)
            source = ["--source", str(tmp_path)]
        name = f"{suite}/{task.name}"
        result = CliRunner().invoke(tasks_app, ["show", name, *source], catch_exceptions=False)
        assert result.exit_code == 0
        if suite != "demo":
            prompt = TaskRenderer(task).render(rows[0], 0).prompt
            for line in filter(None, map(str.strip, prompt.splitlines())):
                assert line in result.output, (name, line)
