"""Reports with figures that are drawn but not rendered: that takes longer than a toy run does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_PAGES = ("run.report", "comparison.page", "tuning.page")


def unrender(replace: Callable[[Any, str, Any], None]) -> None:
    """Replaces what renders figures, by ``setattr`` or a test's ``monkeypatch.setattr``."""
    for page in _PAGES:
        module = importlib.import_module(f"peml.reporting.{page}")
        replace(module, "to_svg", lambda figure, name: f'<svg id="{name}"></svg>')
        for save in ("save_svg", "save_png"):
            if hasattr(module, save):
                replace(module, save, lambda figure, path: path.write_bytes(b""))
