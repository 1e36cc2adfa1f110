from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from peml.cli.tasks import tasks_app
from peml.errors import DataError, TaskError
from tests.tasks.examples import sentiment_fields


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(tasks_app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(text)


def test_list_names_every_task() -> None:
    output = _run("list")
    for name in ("demo", "glue", "reviews", "wnli"):
        assert name in output


def test_show_prints_a_task_and_three_rendered_rows() -> None:
    output = _run("show", "grammar")
    assert "unacceptable" in output
    assert output.count("train row") == 3
    assert output.count("Question: Is this sentence grammatical?") == 4  # the template too
    assert output.count("-> ") == 3


def test_show_takes_a_suite_and_a_task_of_a_suite() -> None:
    assert "similarity" in _run("show", "demo")
    assert "0, 1, 2, 3, 4, 5" in _run("show", "demo/similarity")


def test_show_reads_a_local_folder_and_never_the_hub(tmp_path: Path) -> None:
    assert "--source" in _run("show", "sst2")
    _write_rows(tmp_path / "sst2", [{"sentence": "[b]so so[/b]", "label": 1}])
    assert "[b]so so[/b]" in _run("show", "sst2", "--source", str(tmp_path))


def test_show_suggests_the_nearest_name() -> None:
    with pytest.raises(TaskError, match="Did you mean 'sst2'"):
        _run("show", "sst-2")


def test_check_counts_rows_and_labels(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 1}] * 2
    _write_rows(tmp_path / "data", [*rows, {"sentence": "c", "label": 1}])
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields()))
    output = _run("check", str(file))
    assert "bad: 2, good: 3" in output


def test_check_fails_on_a_bad_row_and_names_it(tmp_path: Path) -> None:
    _write_rows(tmp_path / "data", [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 9}])
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields()))
    with pytest.raises(DataError, match=r"row 1 .*'label': 9 is not a label"):
        _run("check", str(file))


def test_check_reports_every_task_with_a_problem(tmp_path: Path) -> None:
    tasks = [sentiment_fields() | {"name": name, "source": {"path": "."}} for name in "ab"]
    _write_rows(tmp_path / "a", [{"sentence": None, "label": 0}])
    _write_rows(tmp_path / "b", [{"sentense": "b", "label": 0}])
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "own", "tasks": tasks}))
    with pytest.raises(TaskError, match="2 of 2 tasks") as error:
        _run("check", str(file))
    assert "line 1, field 'sentence'" in error.value.problem
    assert "Did you mean 'sentense'" in error.value.problem
