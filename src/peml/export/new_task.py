"""Adds a task to a finished run: its context is computed, not trained."""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from peml.data.sources import load_shown
from peml.errors import ConfigError, ModelError, RunError
from peml.export.added import AddedTask, add, parts_beside, refuse_known_names
from peml.export.agreement import TOLERANCES
from peml.export.native import CONTEXTS
from peml.export.saved import SavedModel, open_model
from peml.export.source import find_model
from peml.injection.inject import attach_prefix
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import ContextSettings
from peml.models import TaskModel, check_task_types, load_backbone
from peml.problems import describe_problems, list_problems
from peml.tasks import Task

_SECTION = """\
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
    shown = load_shown(context.hold([task])[0], source)
    held, tokens = _compute(saved, shown, context, trust_remote_code=trust_remote_code)
    add(saved, [AddedTask(shown, held, (shots, tokens))], _SECTION)
    return tokens


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
    refuse_known_names(saved, [task])
    beside = parts_beside(saved)
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
            action="train all tasks in a new run that starts from this one (init_from: RUN)",
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
    # Contexts that were added later may be trained; those of a run with contexts come first.
    known = () if saved.method().context is None else description.tasks[:1]
    model = TaskModel(load_backbone(settings), (*known, task)).eval()
    check_task_types(model.family, [task])
    part = ContextPart(model, attach_prefix(model.backbone), context)
    *again, held = (prefix.tensor for prefix in part.static_contexts().values())
    for each, tensor in zip(known, again, strict=True):
        _refuse_other_model(saved, tensor, each.name, settings.name)
    return held, len(part.tokens[-1])


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
