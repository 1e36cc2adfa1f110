from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from peml.evaluation import read_predictions
from tests.cli.commands import rescored
from tests.e2e.fixtures import Runs


@pytest.fixture(autouse=True)
def plain_reports(unrendered: None) -> None:
    """No test of this folder looks at a report's figures."""


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Path:
    """A finished run of all five task types that a test may change."""
    return shutil.copytree(runs("causal", "lora"), tmp_path / "one")


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """The same run, but that it has every row of the task `mood` right."""
    copy = shutil.copytree(run, tmp_path / "two")
    gold = list(read_predictions(copy, "mood").gold)
    rescored(copy, "mood", predicted=gold)
    return copy
