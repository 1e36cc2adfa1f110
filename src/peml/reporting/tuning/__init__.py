"""Studies: ``study.json`` read back as figures and one HTML page."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.reporting.tuning.figures import draw_study
    from peml.reporting.tuning.page import render_study_html, write_tuning_report
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "draw_study",
    "render_study_html",
    "write_tuning_report",
]
