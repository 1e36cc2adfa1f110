"""Reports: the results in a run, comparison or study folder as tables, figures and an HTML page.

This package only reads such folders.
"""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.reporting.cautions import Caution, Kind, list_cautions, tell_cautions
    from peml.reporting.comparison.page import write_comparison_report
    from peml.reporting.numbers import memory
    from peml.reporting.run.card import list_unfilled, render_card, write_card
    from peml.reporting.run.diagram import save_drawing
    from peml.reporting.run.outcomes import Outcome, judge_found
    from peml.reporting.run.report import write_report
    from peml.reporting.run.results import load_run
    from peml.reporting.summary import MAJORITY_NOTE
    from peml.reporting.tuning.page import write_tuning_report
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "MAJORITY_NOTE",
    "Caution",
    "Kind",
    "Outcome",
    "judge_found",
    "list_cautions",
    "list_unfilled",
    "load_run",
    "memory",
    "render_card",
    "save_drawing",
    "tell_cautions",
    "write_card",
    "write_comparison_report",
    "write_report",
    "write_tuning_report",
]
