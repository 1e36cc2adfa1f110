"""Comparisons: ``comparison.json`` read back as tables, figures and one HTML page."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.reporting.comparison.page import (
        render_comparison_html,
        write_comparison_report,
    )
    from peml.reporting.comparison.summary import describe_flags
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "describe_flags",
    "render_comparison_html",
    "write_comparison_report",
]
