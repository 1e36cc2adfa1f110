"""``report.md`` and ``report.html``: a finished run, told to a person."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from peml.files import write_text
from peml.records import Means, TaskResult
from peml.reporting.cautions import Kind, list_cautions, tell_cautions
from peml.reporting.environment import template_environment
from peml.reporting.run.decisions import gate_names, tabulate_decisions
from peml.reporting.run.figures import draw_figures
from peml.reporting.run.outcomes import describe_search
from peml.reporting.run.results import RunRecord, load_run
from peml.reporting.style import PALETTE, to_svg
from peml.reporting.summary import part_title, summarise
from peml.reporting.units import memory


def write_report(run_folder: Path) -> None:
    """Writes ``report.md`` and ``report.html`` into a finished run's folder.

    Called last in a run, and safe to call again. Each file appears whole or not at all; the HTML
    is one file that asks for nothing else: no scripts, no fonts, no requests.

    Raises:
        RunError: A file of the run is missing or malformed, or a report can't be written.
    """
    run = load_run(run_folder)
    write_text(run_folder / "report.md", render_markdown(run))
    write_text(run_folder / "report.html", render_html(run))


def render_html(run: RunRecord) -> str:
    """The page, with its style and figures inside."""
    # The drawings are ours and every text in them is escaped by Matplotlib.
    figures = {name: Markup(to_svg(f, f"fig-{name}")) for name, f in draw_figures(run).items()}
    template = run_environment().get_template("report.html.j2")
    return template.render(**_context(run), figures=figures, palette=PALETTE)


def render_markdown(run: RunRecord) -> str:
    """The same report as text and tables."""
    return run_environment().get_template("report.md.j2").render(**_context(run))


def _context(run: RunRecord) -> dict[str, Any]:
    """What both templates are given."""
    history = run.history
    cost = run.results.cost
    development = history.development
    # The best of the last phase only: a supernet's scores are not the final model's.
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


def run_environment() -> Environment:
    """The templates' environment, with the filters of a run's pages."""
    environment = template_environment()
    environment.filters |= {
        "score": _score,
        "change": _change,
        "bounds": _bounds,
        "duration": _duration,
        "memory": _memory,
        "part": part_title,
    }
    return environment


def _score(value: float | None) -> str:
    """A score with three decimals; says what is not one."""
    if value is None:
        return "\u2013"
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _bounds(found: TaskResult | Means) -> str:
    """The 95 % interval of a score; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"[{found.low:.3f}, {found.high:.3f}]"


def _change(value: float | None, reference: float) -> str:
    """The signed difference to a reference, or nothing where there is none."""
    if value is None or not math.isfinite(value - reference):
        return ""
    size = f"{abs(value - reference):.3f}"
    if float(size) == 0:
        return size
    return f"+{size}" if value > reference else f"\u2212{size}"


def _duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _memory(size: int | None) -> str:
    return "not measured" if size is None else memory(size)
