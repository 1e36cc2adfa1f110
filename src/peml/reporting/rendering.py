"""Renders the templates of reports: their folder, escaping and filters."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from peml.records.run import Means, TaskResult
from peml.reporting import numbers
from peml.reporting.style import PALETTE, to_svg
from peml.reporting.summary import join_names, part_title


def render(template: str, **context: Any) -> str:
    """A report as text; ``NAME.html.j2`` is escaped, others are not."""
    return _ENVIRONMENT.get_template(template).render(**context)


def embed(figures: Mapping[str, Figure], prefix: str = "fig") -> dict[str, Markup]:
    """Figures as drawings inside a page; Matplotlib escapes every text in them."""
    return {name: Markup(to_svg(figure, f"{prefix}-{name}")) for name, figure in figures.items()}


def prepare(*templates: str) -> None:
    """Compiles templates, so that processes forked later needn't."""
    for template in templates:
        _ENVIRONMENT.get_template(template)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("peml.reporting", "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["palette"] = PALETTE
    environment.filters |= {
        "bounds": _bounds,
        "cell": _cell,
        "change": numbers.change,
        "count": lambda value: f"{value:,}",
        "link": quote,
        "memory": numbers.memory,
        "names": join_names,
        "part": part_title,
        "score": numbers.score,
        "seconds": numbers.seconds,
        "share": numbers.share,
    }
    return environment


def _bounds(found: TaskResult | Means) -> str:
    """The 95 % interval of a score; empty if there is none."""
    return f"[{found.low:.3f}, {found.high:.3f}]" if math.isfinite(found.low) else ""


def _cell(text: object) -> str:
    """Text with characters escaped that would end a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


_ENVIRONMENT = _environment()
