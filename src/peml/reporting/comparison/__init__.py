"""Comparisons: ``comparison.json`` read back as tables, figures and one HTML page."""

from __future__ import annotations

from peml.reporting.comparison.page import (
    render_comparison_html,
    render_comparison_markdown,
    write_comparison_report,
)
from peml.reporting.comparison.records import ComparisonRecord, load_comparison
from peml.reporting.comparison.summary import describe_flags

__all__ = [
    "ComparisonRecord",
    "describe_flags",
    "load_comparison",
    "render_comparison_html",
    "render_comparison_markdown",
    "write_comparison_report",
]
