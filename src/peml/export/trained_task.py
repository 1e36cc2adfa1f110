"""Adds the tasks of another run, which trained their contexts in front of the model's weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from peml.errors import RunError
from peml.export.added import AddedTask, add, parts_beside, refuse_known_names
from peml.export.native import CONTEXTS
from peml.export.saved import SavedModel, open_model
from peml.export.source import find_model
from peml.tasks import Task

_TOKENIZER = "backbone/tokenizer.json"
_SECTION = """\
## Tasks added with trained contexts

Another run trained a context for each, in front of this model's weights. The weights and the other
tasks' answers stayed as they were.

| task | type | tokens of the context |
|---|---|---:|
"""


def add_trained_tasks(run_or_model: Path, trained: Path) -> list[str]:
    """Adds the tasks of a run that trained contexts on a model's weights; returns their names.

    If it can't be done, nothing is changed.

    Args:
        run_or_model: Run folder, or the ``model`` folder of one: a decoder of merged weights.
        trained: Run folder, or the ``model`` folder of one, whose ``model.name`` was the first's
            ``model/backbone``, and whose method left the weights as they were (context-tuning).
    """
    saved, other = open_model(find_model(run_or_model)), open_model(find_model(trained))
    tasks = other.description.tasks
    refuse_known_names(saved, tasks)
    _refuse_other_parts(saved, "the model")
    _refuse_other_parts(other, str(trained))
    _refuse_no_context(other, tasks)
    if not _same_weights(saved, other):
        raise RunError(
            f"{trained} has other weights than the model, so its contexts don't belong to it",
            allowed=f"a run with model.name: {saved.folder / 'backbone'} and a method that leaves "
            "the weights as they are (context-tuning)",
            action="train the tasks with such a config; nothing was changed",
        )
    _refuse_other_settings(saved, other)
    contexts = other.tensors(CONTEXTS)
    added = [
        AddedTask(task, contexts[task.name], (contexts[task.name].shape[3],)) for task in tasks
    ]
    add(saved, added, _SECTION)
    return [task.name for task in tasks]


def _refuse_other_parts(saved: SavedModel, what: str) -> None:
    beside, context = parts_beside(saved), saved.method().context
    seen = saved.description.contexts_active
    problem = f"has {', '.join(beside)}" if beside else ""
    if seen is not None and not all(seen):
        problem = "has contexts that only some layers see"
    elif context is not None and context.scope == "shared":
        problem = "has one context for all of its tasks"
    if problem:
        raise RunError(
            f"tasks can't be added: {what} {problem}",
            allowed="text-to-text models of merged weights, with contexts or without",
            action="train all tasks in one run; nothing was changed",
        )


def _refuse_no_context(other: SavedModel, tasks: tuple[Task, ...]) -> None:
    if other.method().context is None or not all(task.context for task in tasks):
        raise RunError(
            f"tasks can't be added: the method {other.method_name!r} trained no context for each "
            "task",
            allowed="runs of context-tuning with a context per task",
            action="train the tasks with method context-tuning; nothing was changed",
        )


def _same_weights(saved: SavedModel, other: SavedModel) -> bool:
    """Whether the other model has this one's tokenizer and weights, or these rounded to bfloat16.

    A run that trains in bfloat16 holds frozen weights in it.
    """
    if saved.files.get(_TOKENIZER) != other.files.get(_TOKENIZER):
        return False
    ours, theirs = _weights(saved), _weights(other)
    return ours.keys() == theirs.keys() and all(
        _is_rounded(file.get_tensor(name), theirs[name].get_tensor(name))
        for name, file in ours.items()
    )


def _weights(saved: SavedModel) -> dict[str, Any]:
    """The open file of each tensor of the backbone, by the tensor's name."""
    files = [name for name in saved.files if name.startswith("backbone/")]
    opened = [safe_open(saved.folder / n, "pt") for n in files if n.endswith(".safetensors")]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


def _is_rounded(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return torch.equal(ours, theirs) or torch.equal(ours.bfloat16().float(), theirs.float())


def _refuse_other_settings(saved: SavedModel, other: SavedModel) -> None:
    """Refuses a run whose rows the model would cut, or score or write otherwise."""
    ours, theirs = _settings(saved), _settings(other)
    limit, length = (each.description.model.max_length for each in (saved, other))
    if limit is not None and length is not None and length < limit:  # longer rows are read whole
        theirs["model.max_length"] = limit
    for name, value in ours.items():
        if theirs[name] != value:
            raise RunError(
                f"the run was scored with {name}: {theirs[name]}, and the model has {value}",
                allowed=f"{name}: {value}",
                action="train the tasks with this setting; nothing was changed",
            )


def _settings(saved: SavedModel) -> dict[str, Any]:
    evaluation, model = saved.description.evaluation, saved.description.model
    return {
        "model.max_length": model.max_length,
        "model.too_long": model.too_long,
        **{f"evaluation.{name}": evaluation.get(name) for name in ("scoring", "max_new_tokens")},
    }
