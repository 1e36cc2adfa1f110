from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.reporting.run.report import render_html
from peml.reporting.run.results import load_run
from tests.examples.runs import write_example_run


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    return write_example_run(tmp_path / "searched")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_example_run(tmp_path / "plain", search=False)


@pytest.fixture(scope="session")
def searched_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_html(load_run(write_example_run(tmp_path_factory.mktemp("runs") / "searched")))


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], None]], None]:
    """Changes a JSON file in place."""

    def apply(path: Path, change: Callable[[Any], None]) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")

    return apply
