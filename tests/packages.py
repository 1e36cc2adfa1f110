"""Packages of third parties, as an installer leaves them on the path."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peml.registry import Registry


@contextmanager
def added(registry: Registry[Any], site: Path, entries: Mapping[str, str]) -> Iterator[None]:
    """A package is installed that adds to a registry.

    Args:
        registry: What it adds to.
        site: A new folder.
        entries: Name to ``module:attribute``.
    """
    lines = (f'"{name}" = "{value}"' for name, value in entries.items())
    toml = "\n".join([f'[project.entry-points."{registry.group}"]', *lines])
    write_package(site, "third-party", toml, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        registry.refresh()
        yield
    registry.refresh()


def write_package(site: Path, name: str, toml: str, modules: Mapping[str, str]) -> None:
    """Writes a package and its metadata.

    Args:
        site: Folder on the path; others may be in it.
        name: The package's, with dashes.
        toml: Its ``pyproject.toml``, as far as it names entry points.
        modules: Name to code.
    """
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    for module, code in modules.items():
        (site / f"{module}.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
