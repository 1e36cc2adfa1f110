"""The templates' environment, shared by the reports of runs and of comparisons."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from peml.reporting.summary import join_names


def template_environment() -> Environment:
    """Where templates are found, what they escape, and the filters all of them use."""
    environment = Environment(
        loader=PackageLoader("peml.reporting", "templates"),
        # "report.html.j2" is escaped, "report.md.j2" and the style sheet are not.
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["names"] = join_names
    environment.filters["cell"] = _cell
    return environment


def _cell(text: object) -> str:
    """Text that can't break out of a Markdown table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
