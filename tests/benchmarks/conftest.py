from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from peml.testing.models import save_tiny_model
from tests.export.same_process import one_process

__all__ = ["one_process", "plain_reports"]

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

Script = Callable[[str], Any]


@pytest.fixture(autouse=True)
def plain_reports(unrendered: None) -> None:
    """No test of this folder looks at a report's figures."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """Imports a benchmark as its own folder's scripts see each other."""
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PEML_DATA", raising=False)
    return importlib.import_module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny BERT on disk."""
    return save_tiny_model("bert", tmp_path / "model")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with two of GLUE's tasks, of short and of long rows."""
    for split, count in (("train", 80), ("validation", 8)):
        # Split and number make rows differ, so that none is dropped as leaked.
        texts = [f"{split} {i} " + "good " * (i % 5) for i in range(count)]
        tables = {
            "sst2": [{"sentence": text} for text in texts],
            "mrpc": [{"sentence1": 4 * text, "sentence2": "the film was bad"} for text in texts],
        }
        for task, rows in tables.items():
            (tmp_path / "glue" / task).mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({**row, "label": i % 2, "idx": i}) for i, row in enumerate(rows)]
            path = tmp_path / "glue" / task / f"{split}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "glue"


@pytest.fixture
def figures(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Reads ``figures.json`` and checks its form."""

    def read() -> list[dict[str, Any]]:
        found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
        assert found
        for figure in found:
            assert list(figure) == ["name", "value", "unit", "target", "holds"]
            assert isinstance(figure["value"], float)
            assert (figure["target"] is None) == (figure["holds"] is None)
        return list(found)

    return read


def scored_rows(folder: Path) -> Path:
    """A HellaSwag row and MMLU subjects, as real ones are laid out."""
    ending = {"ctx": "the dog sees a fox", "endings": ["and runs", "and", "a", "b c"], "label": "0"}
    question = {"question": "Where is the ball?", "choices": ["in", "on", "at", "by"], "answer": 1}
    tables: dict[str, list[Any]] = {
        "commonsense/hellaswag/validation": [ending, ending | {"ctx": "a man"}]
    }
    for subject in ("anatomy", "virology"):
        tables[f"mmlu/{subject}/dev"] = [question] * 5
        tables[f"mmlu/{subject}/test"] = [question | {"question": f"{subject}?"}]
    for name, rows in tables.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def options_of(tmp_path: Path, model: Path, source: Path) -> list[str]:
    target = str(tmp_path / "figures.json")
    return ["--json", target, "--model", str(model), "--source", str(source)]


def in_process(benchmark: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Stands in for `subprocess.run` of a benchmark that calls itself: saves the imports."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, benchmark.__file__]
        written = StringIO()
        with redirect_stdout(written):
            benchmark.main(command[2:])
        return subprocess.CompletedProcess(command, 0, written.getvalue())

    return run
