"""Writes a comparison's report, tables and figures into its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from peml.files import write_text
from peml.records.comparison import ComparisonRecord, SuiteRecord
from peml.reporting.comparison.figures import draw_comparison, source_line
from peml.reporting.comparison.formats import to_csv, to_latex, to_markdown
from peml.reporting.comparison.summary import describe_methods, describe_suite, describe_trouble
from peml.reporting.comparison.tables import Table, cost_table, score_table
from peml.reporting.rendering import embed, render
from peml.reporting.style import save_figures


@dataclass(frozen=True, slots=True)
class _SuiteView:
    record: SuiteRecord
    sentences: list[str]
    trouble: list[str]
    scores: Table
    costs: Table
    figures: dict[str, Figure]
    source: str


def write_comparison_report(folder: Path) -> None:
    """Writes ``report.md``, ``report.html``, ``tables/`` and ``figures/`` into a comparison.

    The last step of ``peml compare``, safe to call again. It reads only ``comparison.json``.
    """
    comparison = ComparisonRecord.read(folder)
    views = _views(comparison)
    for view in views:
        _write_tables(comparison, view, folder / "tables")
        save_figures(view.figures, folder / "figures", f"{view.record.name}-")
    markdown = render("comparison.md.j2", **_context(comparison, views), to_markdown=to_markdown)
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", render_comparison_html(comparison, views))


def render_comparison_html(
    comparison: ComparisonRecord, views: list[_SuiteView] | None = None
) -> str:
    """The page, with its style, tables and figures included."""
    views = views or _views(comparison)
    drawings = [embed(view.figures, f"fig-{index}") for index, view in enumerate(views)]
    return render("comparison.html.j2", **_context(comparison, views), drawings=drawings)


def _views(comparison: ComparisonRecord) -> list[_SuiteView]:
    return [
        _SuiteView(
            record=suite,
            sentences=describe_suite(comparison, suite),
            trouble=describe_trouble(suite),
            scores=score_table(comparison, suite),
            costs=cost_table(comparison, suite),
            figures=draw_comparison(comparison, suite),
            source=source_line(comparison, suite),
        )
        for suite in comparison.suites
    ]


def _write_tables(comparison: ComparisonRecord, view: _SuiteView, folder: Path) -> None:
    name = view.record.name
    scores = "Scores, mean and standard deviation over seeds"
    tables = to_markdown(view.scores), to_markdown(view.costs)
    write_text(folder / f"{name}.md", f"{scores}.\n\n{tables[0]}\nCosts.\n\n{tables[1]}")
    about = f"{name}, {comparison.model}"
    caption = f"{about}: {scores[0].lower()}{scores[1:]}."
    tables = to_latex(view.scores, caption), to_latex(view.costs, f"{about}: costs.")
    write_text(folder / f"{name}.tex", "\n".join(tables))
    write_text(folder / f"{name}.csv", to_csv(comparison, view.record))


def _context(comparison: ComparisonRecord, views: list[_SuiteView]) -> dict[str, Any]:
    cells = [cell for suite in comparison.suites for row in suite.rows for cell in row.cells]
    spent = [value for cell in cells for value in cell.seconds.values() if value is not None]
    tuned = [row.seconds.get("tuning") for suite in comparison.suites for row in suite.rows]
    return {
        "comparison": comparison,
        "views": views,
        "methods_summary": describe_methods(comparison),
        "finished": sum(cell.status == "finished" for cell in cells),
        "wanted": len(cells),
        "tasks": sum(len(suite.tasks) for suite in comparison.suites),
        "cell_seconds": sum(spent),
        "tuning_seconds": sum(value for value in tuned if value is not None),
    }
