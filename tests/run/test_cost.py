"""The cost adds up over sessions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peml.records.run import Spent
from peml.run.cost import CostMeter, peak_memory


def test_seconds_steps_and_tokens_go_on_from_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("peml.run.cost.time.monotonic", lambda: clock[0])
    first = CostMeter()
    with first.phase("train"):
        clock[0] += 2
        first.count_step("train", 100)
        saved = first.spent()  # a checkpoint in the middle of a phase
        clock[0] += 3  # thrown away by a kill
    second = CostMeter(saved)
    clock[0] += 50  # between the sessions
    with second.phase("train"):
        clock[0] += 4
        second.count_step("train", 50)
    total = second.spent()
    assert total.steps == {"train": 2}
    assert total.tokens == {"train": 150}
    assert saved.seconds == {"train": 2}
    assert first.spent().seconds == {"train": 5}
    assert total.seconds == {"train": 6}


def test_peak_memory_never_falls() -> None:
    assert CostMeter(Spent(peak_memory_bytes=2**60)).spent().peak_memory_bytes == 2**60


def test_peak_memory_is_not_that_of_a_larger_parent() -> None:
    ballast = b"x" * 2**30  # written to, so it is resident
    code = "from peml.run.cost import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(child.stdout) < peak_memory() - len(ballast) // 2
