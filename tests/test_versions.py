"""Versions are told also of what is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import peml
from peml.versions import read_versions


def test_packages_are_named_with_their_versions() -> None:
    found = read_versions(["peml", "torch", "nothing-of-that-name"])
    assert found == {
        "peml": peml.__version__,
        "torch": torch.__version__,
        "nothing-of-that-name": "not installed",
    }
    assert version("peml") == peml.__version__


def test_the_source_folder_has_a_version_without_being_installed() -> None:
    source = Path(peml.__file__).parents[1]
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "from peml.versions import read_versions; print(read_versions(['peml'])['peml'])"
    )
    # Without site packages, nothing is installed.
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == peml.__version__, done.stderr
