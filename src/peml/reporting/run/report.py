"""``report.md`` and ``report.html``: the report of a finished run."""

import json
import math
from pathlib import Path
from typing import Any

from peml.files import write_text
from peml.reporting.cautions import Kind, list_cautions, tell_cautions
from peml.reporting.rendering import embed, render
from peml.reporting.run.decisions import gate_names, tabulate_decisions
from peml.reporting.run.figures import draw_figures
from peml.reporting.run.outcomes import describe_search
from peml.reporting.run.results import RunRecord, load_run
from peml.reporting.summary import summarise


def write_report(run_folder: Path, *, page: bool = True) -> None:
    """Writes ``report.md`` into a finished run's folder, and before it ``report.html`` if `page`.

    The last step of a run, safe to call again. Each file is written atomically; the HTML needs no
    other file: no scripts, no fonts, no requests.
    """
    run = load_run(run_folder)
    if page:
        write_text(run_folder / "report.html", render_html(run))
    write_text(run_folder / "report.md", render_markdown(run))


def render_html(run: RunRecord) -> str:
    """The page, with its style and figures included."""
    return render("report.html.j2", **_context(run), figures=embed(draw_figures(run)))


def render_markdown(run: RunRecord) -> str:
    """The same report as text and tables."""
    return render("report.md.j2", **_context(run))


def _context(run: RunRecord) -> dict[str, Any]:
    history = run.history
    cost = run.results.cost
    development = history.development
    # The best of the last phase, since a supernet's scores are not the final model's.
    last_phase = [record for record in development if record.phase == development[-1].phase]
    finite = [record for record in last_phase if math.isfinite(record.mean)]
    phases = list(dict.fromkeys([*cost.seconds, *cost.steps, *cost.tokens]))
    layers = run.genotype.layers if run.genotype else []
    return {
        "run": run,
        "results": run.results,
        "plan": run.plan,
        "cautions": tell_cautions(run.plan),
        "trained_on": {c.task for c in list_cautions(run.plan) if c.kind is Kind.INFLATED},
        "summary": summarise(run.results),
        "phases": phases,
        "seconds": sum(cost.seconds.values()),
        "decisions": tabulate_decisions(history),
        "search_notes": describe_search(history),
        "has_gates": bool(gate_names(history)),
        "layers_on": [index for index, active in enumerate(layers) if active],
        "found_by": json.dumps(run.genotype.found_by) if run.genotype else "",
        "first": development[0] if development else None,
        "last": development[-1] if development else None,
        "best": max(finite, key=lambda record: record.mean) if finite else None,
        "diverged_steps": sum(not math.isfinite(record.loss) for record in history.steps),
        "discretise": history.discretise,
        "shade_is_search": len(history.phases()) > 1 and "search" in history.phases(),
    }
