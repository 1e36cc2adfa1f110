"""What packages add by name, the same way and with the same refusals for all four kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peml.errors import ConfigError
from peml.export import EXPORTS
from peml.methods.registry import METHODS
from peml.registry import Registry
from tests.packages import write_package

REGISTRIES: list[Registry[Any]] = [METHODS, EXPORTS]
TAKEN = {"peml.methods": "mtl-lora", "peml.exports": "peft"}

pytestmark = pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.group)


@pytest.fixture
def add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry[Any]
) -> Iterator[Callable[[str, str], None]]:
    """Installs a package that adds an entry to a registry; it is forgotten afterwards."""

    def install(name: str, value: str) -> None:
        toml = f'[project.entry-points."{registry.group}"]\n"{name}" = "{value}"'
        write_package(tmp_path, "third-party", toml, {"broken_addition": "import nowhere_at_all"})
        monkeypatch.syspath_prepend(tmp_path)
        registry.refresh()

    yield install
    monkeypatch.undo()
    registry.refresh()


def test_a_name_that_is_taken_is_refused(
    registry: Registry[Any], add: Callable[[str, str], None]
) -> None:
    taken = TAKEN[registry.group]
    add(taken, "elsewhere:Thing")
    with pytest.raises(ConfigError) as caught:
        registry.names()
    assert f"the {registry.kind} {taken!r} is defined twice" in str(caught.value)
    assert "elsewhere:Thing" in str(caught.value)


def test_an_unknown_name_lists_what_there_is(registry: Registry[Any]) -> None:
    taken = TAKEN[registry.group]
    with pytest.raises(ConfigError) as caught:
        registry.load(f"{taken}x", "correct it")
    assert f"there is no {registry.kind} '{taken}x'. Did you mean {taken!r}?" in str(caught.value)
    assert caught.value.allowed == ", ".join(registry.names())
    assert caught.value.action == "correct it"


def test_what_can_not_be_imported_is_in_the_way_of_its_users_alone(
    registry: Registry[Any], add: Callable[[str, str], None]
) -> None:
    add("theirs", "broken_addition:Thing")
    assert "theirs" in registry.names()
    registry.load(TAKEN[registry.group], "")
    with pytest.raises(ConfigError) as caught:
        registry.load("theirs", "")
    assert f"the {registry.kind} 'theirs' (broken_addition:Thing)" in str(caught.value)
    assert "nowhere_at_all" in str(caught.value)


def test_all_that_is_built_in_can_be_imported(registry: Registry[Any]) -> None:
    assert set(registry.load_all()) == set(registry.names())
