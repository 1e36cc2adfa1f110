"""Comparisons: ``comparison.json`` read back as tables, figures and one HTML page."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.reporting.comparison.page import (
        render_comparison_html,
        render_comparison_markdown,
        write_comparison_report,
    )
    from peml.reporting.comparison.records import ComparisonRecord, load_comparison
    from peml.reporting.comparison.summary import describe_flags
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "ComparisonRecord",
    "describe_flags",
    "load_comparison",
    "render_comparison_html",
    "render_comparison_markdown",
    "write_comparison_report",
]
