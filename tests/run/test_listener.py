"""The log of a run, cut back to the last checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peml.errors import CheckpointError, RunError
from peml.records.metrics import StepRecord
from peml.run.listener import MetricsLog


def _step(step: int, loss: float = 0.5) -> StepRecord:
    return StepRecord(phase="train", step=step, loss=loss, gradient_norm=1.0)


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_what_came_after_the_checkpoint_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write(_step(1))
    offset = log.offset()
    log.write(_step(2))
    log.close()
    path.write_text(path.read_text() + '{"kind": "st')  # a kill in the middle of a line
    resumed = MetricsLog(path, offset)
    resumed.write(_step(2))
    resumed.close()
    assert _steps(path) == [1, 2]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 9}\n')
    log = MetricsLog(path, 0)
    log.write(_step(1))
    log.close()
    assert _steps(path) == [1]


@pytest.mark.parametrize("content", [None, '{"kind"'])
def test_a_log_that_lost_lines_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl was cut short"):
        MetricsLog(path, 40)
    assert path.read_text() == (content or "")


def test_a_line_is_json_or_an_error(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    with pytest.raises(RunError, match=r"metrics\.jsonl: a number in it is NaN"):
        log.write(_step(1, loss=float("nan")))
    log.close()
    assert not (tmp_path / "metrics.jsonl").read_text()
