"""CONTRIBUTING.md, done as it says: packages that add to peml, and their conformance tests."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from peml.export import EXPORTS
from peml.models.families import FAMILIES
from peml.prefix.operations.registry import OPERATIONS
from peml.registry import Registry
from peml.tasks import TaskRenderer
from peml.testing import TINY_TASKS
from peml.testing.tasks import tiny_family
from tests.packages import write_package

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
REGISTRIES: tuple[Registry[Any], ...] = (EXPORTS, FAMILIES, OPERATIONS)

Package = Callable[[str], type]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Installs the package of a section; returns its test class."""
    made: list[str] = []

    def install(title: str) -> type:
        text = (
            PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        )
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        code, test = (block for language, block in blocks if language == "python")
        (toml,) = (block for language, block in blocks if language == "toml")
        name = re.match(r'"""(\w+)\.py', code)
        assert name, "the module begins with its name"
        made.extend([name[1], f"test_{name[1]}"])
        write_package(tmp_path / "site", name[1], toml, dict(zip(made, (code, test), strict=True)))
        monkeypatch.syspath_prepend(tmp_path / "site")
        for registry in REGISTRIES:
            registry.refresh()
        tests = vars(import_module(made[1]))
        (suite,) = (value for key, value in tests.items() if key.startswith("Test"))
        found: type = suite
        return found

    yield install
    monkeypatch.undo()
    for module in made:
        sys.modules.pop(module, None)
    for registry in REGISTRIES:
        registry.refresh()


def run_suite(suite: type, folder: Path) -> int:
    """Calls each test of a suite as pytest would; how many there were."""
    tests = [name for name in dir(suite) if name.startswith("test_")]
    for name in tests:
        test = getattr(suite(), name)
        place = folder / name
        place.mkdir()
        test(**({"tmp_path": place} if "tmp_path" in inspect.signature(test).parameters else {}))
    return len(tests)


def test_an_export_format_is_added_as_the_page_says(package: Package, tmp_path: Path) -> None:
    suite = package("Add an export format")
    assert "flat" in EXPORTS.names()
    assert run_suite(suite, tmp_path) == 2


def test_an_operation_is_added_as_the_page_says(package: Package, tmp_path: Path) -> None:
    suite = package("Add an operation")
    assert "position-mix" in OPERATIONS.names()
    assert run_suite(suite, tmp_path) == 6


def test_a_family_is_added_as_the_page_says(package: Package, tmp_path: Path) -> None:
    suite = package("Add a model family")
    assert run_suite(suite, tmp_path) == 6
    queried, plain = (tiny_family("bert", family=name) for name in ("query-encoder", "encoder"))
    example = TaskRenderer(TINY_TASKS[0]).render({"text": "good", "label": 1}, 0)
    ours, theirs = (f.encode(TINY_TASKS[0], example, "train")[0] for f in (queried, plain))
    decoded = queried.tokenizer.decode(ours.input_ids, skip_special_tokens=True)
    assert decoded == "query: " + plain.tokenizer.decode(theirs.input_ids, skip_special_tokens=True)
