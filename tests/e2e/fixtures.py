"""Fixtures of the tests that run; `toys` and `runs` are made once for all folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peml.cli import main
from tests.e2e.toy import toy_config, write_suite
from tests.e2e.unrendered import unrender

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
            with pytest.MonkeyPatch.context() as patch:
                if family != "encoder":  # the figures of the others are the same ones
                    unrender(patch.setattr)
                with pytest.raises(SystemExit) as ended:
                    main(["fit", str(config), "--output", str(folder)])
            assert ended.value.code == 0
        return folder

    return run


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports aren't rendered, for tests that look at none.

    `tests/reporting` and the encoder's runs of `tests/e2e/test_fit.py` render them.
    """
    unrender(monkeypatch.setattr)
