"""Runs of seconds, and processes of jobs that start without the seconds of imports."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.execution import processes
from peml.execution.job import Job
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings
from tests.e2e.apart import fresh_processes
from tests.e2e.toy import toy_config
from tests.e2e.unrendered import unrender


@pytest.fixture(scope="module")
def quick_processes(toys: Path) -> Iterator[None]:
    """Jobs in processes forked from a server that has imported the package and run nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_CONTEXT", fresh_processes())
        unrender(patch.setattr)
        yield


def quick_run(toys: Path) -> RunConfig:
    """A run of 18 steps that is evaluated four times."""
    training = {"epochs": 1, "evaluate_every": 5}
    return load_config(toy_config(toys, method="lora", training=training))


def drive(toys: str, folder: str) -> None:
    """Runs a quick run on a Ray cluster of its own, and dies at the second evaluation."""

    def report(job: Job, step: int, value: float) -> bool:
        if step > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    with make_executor(ExecutionSettings(kind="ray"), report) as executor:
        executor.submit(Job("driven", Path(folder), quick_run(Path(toys))))
        executor.wait()
