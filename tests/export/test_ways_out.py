"""Which formats a method's model can be exported to: what is listed, and what the docs say."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from peml.export import EXPORTS, export_model, list_exports
from peml.methods.registry import METHODS
from peml.testing import save_tiny_model
from tests.export.trained import run_of

_MODELS = {"llama": "decoder", "bert": "encoder"}
_DOCS = Path(__file__).parents[2] / "docs/methods.md"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for name in _MODELS:
        save_tiny_model(name, folder / name)
    return folder


def documented() -> dict[str, dict[str, str]]:
    """The docs' table: format to cell, by method."""
    text = _DOCS.read_text(encoding="utf-8").partition("## Ways out")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def _methods() -> list[tuple[str, dict[str, Any]]]:
    names: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS.names()]
    return [
        *names,
        ("moe-lora", {"routing": "token"}),
        ("lora+context", {"context": {"of": "frozen"}}),
    ]


def _row(method: str, options: dict[str, Any]) -> str:
    if method == "lora+context":
        return f"`{method}`, `of: {'frozen' if options else 'adapted'}`"
    return f"`{method}`" + (", `routing: token`" if options else "")


@pytest.mark.parametrize(("method", "options"), _methods())
def test_the_docs_table_says_what_is_listed(
    bases: Path, method: str, options: dict[str, Any]
) -> None:
    if method == "hira" and find_spec("peft.tuners.hira") is None:
        pytest.skip("HiRA needs PEFT 0.20")
    cells: dict[str, list[str]] = {}
    for base, kind in _MODELS.items():
        found = list_exports(run_of(base, method, bases, **options))
        for name, problem in found.items():
            cells.setdefault(name, []).extend([kind] * (problem is None))
    row = {f"`{name}`": ", ".join(kinds) or "no" for name, kinds in cells.items()}
    assert documented()[_row(method, options)] == row


def test_the_docs_table_has_no_other_rows() -> None:
    assert set(documented()) == {_row(*each) for each in _methods()}
    columns = next(iter(documented().values()))
    assert [name.strip("`") for name in columns] == list(EXPORTS.names())


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("base", "method"), [("gpt2", "lora+prefix"), ("llama", "lora+context"), ("llama", "lora")]
)
def test_what_is_listed_is_what_an_export_does(tmp_path: Path, base: str, method: str) -> None:
    run = run_of(base, method, tmp_path)
    for name, problem in list_exports(run).items():
        out = tmp_path / f"out-{name}"
        if problem is None:
            export_model(run, out, name)
        else:
            with pytest.raises(type(problem), match=re.escape(problem.problem)):
                export_model(run, out, name)
