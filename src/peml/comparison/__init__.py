"""Comparisons: methods x seeds x suites in one folder, at equal cost."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.comparison.pipeline import compare, plan
    from peml.comparison.settings import ComparisonConfig, load_comparison, parse_comparison
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "ComparisonConfig",
    "compare",
    "load_comparison",
    "parse_comparison",
    "plan",
]
