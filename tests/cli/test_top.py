"""What the command line says before any verb."""

from __future__ import annotations

import pytest

import peml as package
from tests.cli.commands import peml


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    said = peml(capsys, "--version")
    assert (said.code, said.out) == (0, f"peml {package.__version__}\n")


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    said = peml(capsys, "--help")
    assert said.code == 0
    for verb in (
        *("fit", "tune", "compare", "evaluate", "predict", "add-task", "export", "doctor"),
        *("tasks", "config", "genotype", "estimate", "--version"),
    ):
        assert verb in said.out
