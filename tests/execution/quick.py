"""Processes of jobs that start without the seconds of imports."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peml.execution import processes
from tests.e2e.apart import fresh_processes

__all__ = ["quick_processes"]

_work = processes._work


def _work_with_cache(cache: str, *work: Any) -> None:
    os.environ["PEML_CACHE"] = cache
    _work(*work)


@pytest.fixture(scope="module")
def quick_processes(toys: Path) -> Iterator[None]:
    """Jobs in processes forked from a server that has imported the package and run nothing."""
    work = functools.partial(_work_with_cache, os.environ["PEML_CACHE"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_CONTEXT", fresh_processes())
        patch.setattr(processes, "_work", work)
        yield
