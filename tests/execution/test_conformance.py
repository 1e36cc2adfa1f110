"""The executors of this machine, under the suite that every executor has to pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peml.config.model import RunConfig
from peml.execution.settings import ExecutionSettings
from tests.execution.quick import quick_run
from tests.execution.suite import ExecutorSuite

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(toys: Path) -> RunConfig:
    return quick_run(toys)


class TestInline(ExecutorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> ExecutionSettings:
        return ExecutionSettings(kind="inline")


@pytest.mark.usefixtures("quick_processes")
class TestProcesses(ExecutorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> ExecutionSettings:
        return ExecutionSettings(kind="processes", jobs=2, cpus=torch.get_num_threads())
