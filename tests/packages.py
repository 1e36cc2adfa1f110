"""Packages of third parties, as an installer leaves them on the path."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_package"]


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
