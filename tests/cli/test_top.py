"""What the command line says before any verb."""

from __future__ import annotations

import errno

import pytest

import peml as package
from peml.cli import main
from tests.cli.commands import peml


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    said = peml(capsys, "--version")
    assert (said.code, said.out) == (0, f"peml {package.__version__}\n")


def test_a_folder_that_may_not_be_used_ends_with_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/closed/rows.csv")

    monkeypatch.setattr("peml.cli.app", closed)
    said = peml(capsys, "tasks", "list")
    assert (said.code, said.out) == (2, "")
    assert said.error.strip() == "error: /closed/rows.csv can't be used: permission denied"
    with pytest.raises(PermissionError):
        main(["--debug", "tasks", "list"])


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    said = peml(capsys, "--help")
    assert said.code == 0
    for verb in (
        *("fit", "tune", "compare", "evaluate", "predict", "add-task", "export", "doctor"),
        *("tasks", "config", "genotype", "estimate", "--version"),
    ):
        assert verb in said.out
