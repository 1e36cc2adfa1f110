"""Reports with figures that are drawn but not rendered: that takes longer than a toy run does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peml.reporting import rendering, style


def unrender(replace: Callable[[Any, str, Any], None]) -> None:
    """Replaces what renders figures, by ``setattr`` or a test's ``monkeypatch.setattr``."""
    replace(rendering, "to_svg", lambda figure, name: f'<svg id="{name}"></svg>')
    for save in ("save_svg", "save_png"):
        replace(style, save, lambda figure, path: path.write_bytes(b""))
