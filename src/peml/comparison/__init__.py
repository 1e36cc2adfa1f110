"""Comparisons: methods x seeds x suites in one folder, at equal cost."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.comparison.pipeline import Comparison, compare, plan
    from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "compare",
    "load_comparison",
    "parse_comparison",
    "plan",
]
