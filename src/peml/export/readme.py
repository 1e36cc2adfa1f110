"""READMEs of exports: one template per format, in `templates/`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from peml.export.saved import SavedModel
from peml.files import write_text
from peml.models import TaskModel
from peml.models.families import CausalFamily
from peml.models.families.seam import find_frame
from peml.tasks import Task


def write_readme(
    folder: Path, template: str, saved: SavedModel, model: TaskModel, **values: Any
) -> None:
    """Writes an export's README.md from a template.

    It gets ``base``, ``method``, values, and ``unended``: for decoders whose tokenizer puts tokens
    after every text, the index that leaves them out.
    """
    ends, notes = 0, []
    if isinstance(model.family, CausalFamily):
        ends = len(find_frame(model.family.tokenizer, "text")[1])
        notes = _prompt_notes(model, ends)
    named = {"base": saved.description.base_model, "method": saved.method_name}
    named["unended"] = f"[:, :-{ends}]" if ends else ""
    text = _environment().get_template(f"{template}.md.j2").render(**named, **values)
    write_text(folder / "README.md", "\n".join([text, *notes]))


def _prompt_notes(model: TaskModel, ends: int) -> list[str]:
    """What another tool must know to give a decoder the run's prompts: a paragraph each."""
    notes, start = [], model.family.tokenizer.bos_token
    if ends:
        notes.append(
            f"The tokenizer puts {ends} of its special tokens after every text. No prompt ended "
            f"with them: leave them out (`input_ids[:, :-{ends}]`).\n"
        )
    for task in model.tasks:
        if start and (task.header or task.template).startswith(start):
            notes.append(
                f"A prompt of `{task.name}` begins with `{start}`. The run did not read it twice: "
                "tokenize it with `add_special_tokens=False`.\n"
            )
        if task.chat is not None:
            settings = task.chat.model_dump(mode="json", exclude_defaults=True)
            also = f", with {json.dumps(settings, ensure_ascii=False)}" if settings else ""
            notes.append(
                f"`{task.name}` is asked through the chat template (`tokenizer.apply_chat_template`"
                f", `add_generation_prompt=True`){also}: a row's prompt is the user's turn.\n"
            )
    return notes


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
