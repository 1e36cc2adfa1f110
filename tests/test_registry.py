"""What packages add by name, the same way and with the same refusals for all four kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.errors import ConfigError
from peml.export import EXPORTS
from peml.methods.registry import METHODS
from peml.models.families import FAMILIES
from peml.prefix.operations.registry import OPERATIONS
from peml.registry import Registry
from tests.packages import added

REGISTRIES: list[Registry[Any]] = [METHODS, OPERATIONS, EXPORTS, FAMILIES]
TAKEN = {
    "peml.methods": "mtl-lora",
    "peml.operations": "linear",
    "peml.exports": "peft",
    "peml.families": "causal",
}

pytestmark = pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.group)


def test_a_name_that_is_taken_is_refused(registry: Registry[Any], tmp_path: Path) -> None:
    taken = TAKEN[registry.group]
    twice = added(registry, tmp_path, {taken: "elsewhere:Thing"})
    with twice, pytest.raises(ConfigError) as caught:
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


@pytest.mark.parametrize("name", ["Mine", "a b", "cell.0"])
def test_a_name_that_configs_can_not_hold_is_refused(
    registry: Registry[Any], name: str, tmp_path: Path
) -> None:
    malformed = added(registry, tmp_path, {name: "elsewhere:Thing"})
    with malformed, pytest.raises(ConfigError, match=f"{name!r}.*can't be the name"):
        registry.names()


def test_what_can_not_be_imported_is_in_the_way_of_its_users_alone(
    registry: Registry[Any], tmp_path: Path
) -> None:
    with added(registry, tmp_path, {"theirs": "nowhere_at_all:Thing"}):
        assert "theirs" in registry.names()
        registry.load(TAKEN[registry.group], "")
        with pytest.raises(ConfigError) as caught:
            registry.load("theirs", "")
    assert f"the {registry.kind} 'theirs' (nowhere_at_all:Thing)" in str(caught.value)
    assert "No module named 'nowhere_at_all'" in str(caught.value)


def test_all_that_is_built_in_can_be_imported(registry: Registry[Any]) -> None:
    assert set(registry.load_all()) == set(registry.names())
