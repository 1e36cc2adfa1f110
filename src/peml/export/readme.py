"""READMEs of exports: one template per format, in `templates/`."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from peml.export.saved import SavedModel
from peml.files import write_text
from peml.tasks import Task


def write_readme(folder: Path, template: str, saved: SavedModel, **values: Any) -> None:
    """Writes an export's README.md from a template, which gets ``base``, ``method`` and values."""
    named = {"base": saved.description.base_model, "method": saved.method_name}
    text = _environment().get_template(f"{template}.md.j2").render(**named, **values)
    write_text(folder / "README.md", text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("peml.export", "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"code": "`{}`".format, "scores": _scores}
    return environment


def _scores(task: Task) -> str:
    """The meaning of the scores of a task's head."""
    if task.type.has_own_options:
        return "one score per option, each encoded with the context; the highest is the answer"
    if task.scale is not None:
        low, width = task.scale.low, task.scale.high - task.scale.low
        return f"the value is `(score + 2) / 4 * {width:g} + {low:g}`"
    return "logits of " + ", ".join(task.labels)
