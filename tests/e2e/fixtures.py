"""Fixtures of the tests that run; `toys` and `runs` are made once for all folders."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peml.cli import main
from tests.e2e.toy import toy_config, write_suite

_PAGES = ("run.report", "comparison.page", "tuning.page")

Runs = Callable[[str, str], Path]
"""(family, method) -> folder of a finished run."""


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for suite, models and configs, with a cache of its own."""
    yield from _folder(tmp_path_factory)


@pytest.fixture(scope="session")
def distinct_toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same, but no two rows are equal: a context may show no row that is scored."""
    for folder in _folder(tmp_path_factory):
        write_suite(folder, distinct=True)
        yield folder


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEML_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "200")
        yield folder


@pytest.fixture(scope="session")
def runs(toys: Path) -> Runs:
    """Finished runs, made through the command line when first asked for. Not to be changed."""

    def run(family: str, method: str) -> Path:
        folder = toys / "runs" / f"{family}-{method}"
        if not folder.exists():
            config = toy_config(toys, family, method)
            with pytest.raises(SystemExit) as ended:
                main(["fit", str(config), "--output", str(folder)])
            assert ended.value.code == 0
        return folder

    return run


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are drawn but not rendered, which takes longer than a toy run's training.

    For folders whose tests look at no figure; `tests/e2e` and `tests/reporting` render them.
    """
    for page in _PAGES:
        module = importlib.import_module(f"peml.reporting.{page}")
        monkeypatch.setattr(module, "to_svg", lambda figure, name: f'<svg id="{name}"></svg>')
        for save in ("save_svg", "save_png"):
            if hasattr(module, save):
                monkeypatch.setattr(module, save, lambda figure, path: path.write_bytes(b""))
