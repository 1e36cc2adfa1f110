"""Reports: a run folder read back as tables, figures and one HTML page. Reads run folders only."""

from __future__ import annotations

from peml.reporting.figures import draw_figures, save_figures
from peml.reporting.report import write_report
from peml.reporting.results import RunRecord, load_results, load_run

__all__ = [
    "RunRecord",
    "draw_figures",
    "load_results",
    "load_run",
    "save_figures",
    "write_report",
]
