"""Adds a task to a finished run: its context is computed, not trained."""

import os
import re
import shutil
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from peml.data.sources import load_shots
from peml.errors import ConfigError, ModelError, RunError
from peml.export.agreement import TOLERANCES
from peml.export.native import CONTEXTS
from peml.export.saved import DESCRIPTION, SavedModel, describe, open_model
from peml.export.source import find_model
from peml.files import MANIFEST, atomic_folder, write_bytes, write_tensors
from peml.injection.inject import attach_prefix
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings
from peml.models import TaskModel, check_task_types, load_backbone
from peml.problems import describe_problems, list_problems
from peml.tasks import Task

_CARD = "README.md"
_NEXT_SECTION = "## How to use it"
_ADDED = """\
## Tasks added without training

The model was not trained on these, and no row of theirs was scored. It holds a context of solved
rows for each.

| task | type | solved rows | tokens of the context |
|---|---|---:|---:|
"""


def add_task(
    run_or_model: Path,
    task: Task,
    shots: int,
    source: str | None = None,
    *,
    choose: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Adds a task to a finished run's model, without training; returns its context's tokens.

    Only the split with the solved rows is read. If it can't be done, nothing is changed.

    Args:
        run_or_model: Run folder, or the ``model`` folder of one.
        task: The task.
        shots: Number of solved rows that its context shows.
        source: Folder with the task's folder; default: the task's own source.
        choose: How its rows are chosen, see `ContextSettings.choose`; default: as in the run.
        trust_remote_code: Run Python code that comes with the model.
    """
    saved = open_model(find_model(run_or_model))
    context = _context_of(saved, task)
    context = _choosing(context, shots, choose or context.choose)
    shown = load_shots(context.hold([task])[0], source)
    held, tokens = _compute(saved, shown, context, trust_remote_code=trust_remote_code)
    tasks = (*saved.description.tasks, shown)
    contexts = {**_contexts_of(saved), shown.name: held}
    # What people wrote into a card later would otherwise be sealed with the rest.
    cards = {path.name: path.read_bytes() for path in saved.folder.glob("README*")}
    if _CARD in cards:
        card = cards[_CARD].decode(errors="surrogateescape")
        card = _with_line(card, f"| {task.name} | {task.type} | {shots} | {tokens} |\n")
        cards[_CARD] = card.encode(errors="surrogateescape")
    with atomic_folder(saved.folder) as partial:
        kept = shutil.ignore_patterns(".*", "README*", MANIFEST, DESCRIPTION, CONTEXTS)
        shutil.copytree(saved.folder, partial, ignore=kept, copy_function=_link, dirs_exist_ok=True)
        write_tensors(partial / CONTEXTS, contexts)
        describe(partial, saved.description.model_copy(update={"tasks": tasks}))
    for name, content in cards.items():
        write_bytes(saved.folder / name, content)
    return tokens


def _with_line(card: str, line: str) -> str:
    """A model card with a line for an added task; the text of users is kept."""
    if _ADDED not in card:
        before, following, after = card.partition(_NEXT_SECTION)
        card = f"{before.rstrip()}\n\n{_ADDED}\n{following}{after}"
    table = re.compile(re.escape(_ADDED) + r"(\|.*\n)*")
    return table.sub(lambda found: found[0] + line, card, count=1)


def _choosing(context: ContextSettings, shots: int, choose: str) -> ContextSettings:
    try:
        fixed = {"draw": "once", "leave_one_out": None}  # nothing is trained
        changed = context.model_dump() | fixed | {"shots": shots, "choose": choose}
        return ContextSettings.model_validate(changed)
    except ValidationError as error:
        problems = describe_problems(error, ContextSettings)
        raise ConfigError(
            list_problems("the new task's context", problems), action="correct the option"
        ) from None


def _context_of(saved: SavedModel, task: Task) -> ContextSettings:
    """The settings of the run's contexts; refuses a model that can't have another task."""
    method = saved.method()
    names = [each.name for each in saved.description.tasks]
    if task.name in names:
        raise RunError(
            f"the model has a task {task.name!r}",
            allowed=f"a name other than {', '.join(names)}",
            action="rename the new task; nothing was changed",
        )
    beside = sorted(name for name in saved.files if name.endswith(".safetensors"))
    beside = [name for name in beside if "/" not in name and name != CONTEXTS]
    context, problem = method.context, ""
    if method.corrects_contexts:
        problem = (
            "its contexts were trained after they were computed, and a new task's would not be"
        )
        allowed = "models whose contexts are not trained (method.correction.trains: none)"
    elif beside:
        problem = f"it has {', '.join(beside)}"
        allowed = "text-to-text models of merged weights, with contexts (lora+context) or without"
    elif context is not None and context.scope == "shared":
        problem = (
            "its tasks share one context, which was trained with and would have to stay the same"
        )
        allowed = "models with a context per task (method.context.scope: task)"
    if problem:
        raise RunError(
            f"a task can't be added to this model: {problem}",
            allowed=allowed,
            action="train with the task; nothing was changed",
        )
    # Without contexts of its own, the model reads the new one as it is.
    return context or ContextSettings(of="adapted")


def _compute(
    saved: SavedModel, task: Task, context: ContextSettings, *, trust_remote_code: bool
) -> tuple[Tensor, int]:
    """The keys and values of the new task's context, and its number of tokens."""
    description = saved.description
    settings = saved.settings(trust_remote_code=trust_remote_code)
    if context.of == "frozen":
        settings = settings.model_copy(update={"name": description.base_model})
    known = [each for each in description.tasks if each.context][:1]
    model = TaskModel(load_backbone(settings), (*known, task)).eval()
    check_task_types(model.family, [task])
    part = ContextPart(model, attach_prefix(model.backbone), context)
    *again, held = (prefix.tensor for prefix in part.static_contexts().values())
    for each, tensor in zip(known, again, strict=True):
        _refuse_other_model(saved, tensor, each.name, settings.name)
    return held, len(part.tokens[-1])


def _contexts_of(saved: SavedModel) -> dict[str, Tensor]:
    return saved.tensors(CONTEXTS) if CONTEXTS in saved.files else {}


def _refuse_other_model(saved: SavedModel, again: Tensor, known: str, name: str) -> None:
    """Refuses weights that don't give the stored context of a task that was trained."""
    stored = saved.tensors(CONTEXTS)[known]
    tolerance = TOLERANCES[str(stored.dtype).removeprefix("torch.")]
    difference = torch.inf
    if stored.shape == again.shape:
        difference = float((again.float() - stored.float()).norm() / stored.float().norm())
    if not difference <= tolerance:
        raise ModelError(
            f"{name} gives another context of {known!r} than the run's model has: keys and values "
            f"differ by {difference:.2g} of their size",
            allowed=f"at most {tolerance:g}",
            action="use the base model that the run was trained with; nothing was changed",
        )


def _link(source: str, target: str) -> str:
    """Makes a hard link, or a copy if the disk doesn't support links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
