"""The bundled suites on real rows: PEML_DATA names a folder with one folder per suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from peml.data.folders import TaskMissingError
from peml.data.inspection import inspect_task
from peml.evaluation.evaluate import read_gold
from peml.evaluation.metrics import compute_metrics, majority_prediction
from peml.tasks import TaskRenderer
from peml.testing.tasks import tiny_family
from tests.tasks.benchmark_rows import ROWS, bundled

DATA = os.environ.get("PEML_DATA")

FOLDERS = {"commonsense-instruct": "commonsense"}
"""Suites that read another one's rows."""

pytestmark = pytest.mark.skipif(DATA is None, reason="PEML_DATA names no folder of real rows")


@pytest.mark.parametrize("suite", ROWS)
def test_every_row_renders_and_the_constant_guess_is_scored(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    checked = []
    for task in bundled(suite).tasks:
        try:
            folder = Path(DATA or "") / FOLDERS.get(suite, suite)
            data = inspect_task(task, str(folder)).data
        except TaskMissingError:
            continue
        rows = data.reported.select(range(min(200, len(data.reported))))
        nothing: Any = None  # never looked at
        split = read_gold(task, 0, rows, nothing, tiny_family("t5").spelling)
        renderer = TaskRenderer(task)
        assert [renderer.gold(row, number) for number, row in enumerate(rows)] == split.gold
        guess = majority_prediction(task, split.gold)
        metrics = compute_metrics(task.metrics, split.gold, [guess] * len(rows), split.groups)
        assert all(0 <= value < 1 for value in metrics.values()), task.name
        answers = [gold[0] if isinstance(gold, tuple) else gold for gold in split.gold]
        perfect = compute_metrics(task.metrics, split.gold, answers, split.groups)
        assert all(value == pytest.approx(1) for value in perfect.values()), (task.name, perfect)
        checked.append(task.name)
    assert len(checked) >= len(bundled(suite).tasks) - 1  # a copy may lack a task
