"""Comparisons: methods x seeds x suites in one folder, at equal cost."""

from peml.comparison.pipeline import Comparison, compare, plan
from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "compare",
    "load_comparison",
    "parse_comparison",
    "plan",
]
