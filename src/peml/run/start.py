"""Starts from trained weights: those of a finished run, or of a LoRA that PEFT saved.

Each part of the method is taken over whole or not at all. Equal names and shapes are not enough: a
LoRA must have the same rank and scale, other parts the same settings and network.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peml.errors import ModelError, RunError
from peml.export import SavedModel, open_model
from peml.files import read_tensors, sha256
from peml.methods.attached import AttachedModel
from peml.methods.base import PEFT_CONFIG, PEFT_WEIGHTS, Part
from peml.models.heads import TaskHeads
from peml.prefix.genotype import Genotype
from peml.records.plan import Identity, Plan, Start
from peml.run.folder import RunFolder
from peml.run.preparation import Prepared
from peml.run.state import SessionState
from peml.run.work_folder import differences

_SAME = ("weights", "config", "tokenizer")
# Settings that don't change the meaning of trained weights, for parts that PEFT doesn't save.
_FREE = ("learning_rate", "dropout", "search", "lora", "lora_ranks", "budget")


def start_from(source: Path, model: AttachedModel, prepared: Prepared, now: Identity) -> Start:
    """Loads trained weights into a newly attached model.

    The source is a finished run's folder, or a folder with a PEFT adapter. The model is changed in
    place; `now` has the checksums of its base model.

    Raises:
        ModelError: The adapter doesn't fit.
        RunError: The run isn't finished, has another base model, or none of its weights fit.
    """
    if (source / PEFT_CONFIG).is_file():
        return _from_adapter(source, model)
    run = _open(source, prepared, now)
    left: dict[str, str] = {}
    taken: dict[str, int] = {}
    for name, part in model.parts.items():
        reason = _take_adapter(run, part)
        if reason is None:
            reason = _take_tensors(run, model, name, part)
        if reason:
            left[name] = reason
        elif count := _size(part):
            taken[name] = count
    if not model.parts and model.groups():
        reason = _take_tensors(run, model, "", None)
        if reason:
            left["backbone"] = reason
        else:
            taken["backbone"] = sum(p.numel() for p in model.base.backbone.parameters())
    heads, old = _take_heads(run, model, left)
    if not taken and not heads:
        why = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise RunError(
            f"no weight of {source} fits this run: {why or 'it trains nothing'}",
            allowed="a run with a part or a head that is the same",
            action="correct init_from or the method's settings",
        )
    return Start(
        source=str(source),
        checksum=sha256(run.weights),
        taken=taken,
        heads=heads,
        new_tasks=[task.name for task in prepared.tasks if task.name not in old],
        left=left,
    )


def _from_adapter(source: Path, model: AttachedModel) -> Start:
    taken, left = {}, {}
    for name, part in model.parts.items():
        others = part.start_from(source)
        if others is None:
            left[name] = "an adapter of PEFT's has none"
            continue
        taken[name] = _size(part)
        left |= dict.fromkeys(others, "no weight of the method")
    if not taken:
        raise ModelError(
            f"{source} is an adapter of PEFT's, and the method has no part that could take it over",
            allowed="a method with LoRA or another of PEFT's layers",
            action="choose such a method, or leave out init_from",
        )
    if model.base.heads is not None:
        left["heads"] = "an adapter of PEFT's has none"
    return Start(source=str(source), checksum=sha256(source / PEFT_WEIGHTS), taken=taken, left=left)


@dataclass(frozen=True)
class _Source:
    """The weights of a finished run, with the settings that give them their meaning."""

    saved: SavedModel
    weights: Path
    state: Mapping[str, Tensor]
    genotype: Genotype | None
    unlike: str
    """The difference to method or tasks of the new run; empty if there is none."""


def _open(source: Path, prepared: Prepared, now: Identity) -> _Source:
    folder = RunFolder(source)
    if not folder.is_started or not folder.is_finished or not folder.model.is_dir():
        raise RunError(
            f"{source} is no folder of a finished run with its model, and no adapter of PEFT's",
            allowed="a folder that `peml fit` has finished (with export: true), or one with "
            f"{PEFT_CONFIG}",
            action="correct init_from, or finish that run first",
        )
    _refuse_other_model(source, now)
    config = folder.config()
    # Kept as many as there are: the source is only read.
    store = folder.store(keep=sys.maxsize)
    checkpoint = store.load_latest()
    if checkpoint is None:
        raise RunError(
            f"{source} has no checkpoints, so it has no weights to start from",
            allowed="a run that trained, with its checkpoints/",
            action="correct init_from",
        )
    session = SessionState.check(folder.checkpoints, checkpoint.state)
    weights = sorted(folder.checkpoints.glob("step-*"))[-1]
    if config.training.keep == "best":
        weights = folder.checkpoints / f"best-{session.progress.best_step:07d}"
        store.load_best(session.progress.best_step)  # checks it
    saved = open_model(folder.model)
    before, after = config.method, prepared.config.method
    unlike = f"the run's method is {before.name}"
    if before.name == after.name:
        unlike = differences(*(_meaning(each.model_dump(mode="json")) for each in (before, after)))
    old = [task.name for task in saved.description.tasks]
    by_task = prepared.method.needs_task_id or prepared.method.merging.how != "once"
    if by_task and old != [task.name for task in prepared.tasks]:
        unlike = unlike or "its weights belong to the tasks of that run, in their order"
    path = weights / "trainable.safetensors"
    return _Source(saved, path, read_tensors(path), session.genotype, unlike)


def _refuse_other_model(source: Path, now: Identity) -> None:
    before = Plan.read(source).identity
    changed = [part for part in _SAME if before.model.get(part) != now.model.get(part)]
    if changed:
        raise RunError(
            f"the run in {source} has another base model: its {' and '.join(changed)} differ",
            allowed="the base model that the weights were trained with",
            action="correct model.name or init_from",
        )


def _meaning(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a method without settings that don't change the meaning of trained weights."""
    return {
        name: _meaning(value) if isinstance(value, Mapping) else value
        for name, value in section.items()
        if not any(free in name for free in ("learning_rate", "dropout")) and name not in _FREE
    }


def _network(genotype: Genotype | None) -> dict[str, Any] | None:
    return None if genotype is None else genotype.model_dump(exclude={"found_by"})


def _size(part: Part) -> int:
    return sum(p.numel() for group in part.groups() for p in group.parameters)


def _take_adapter(run: _Source, part: Part) -> str | None:
    """Takes over a part that the run saved in PEFT's format; returns why it can't, or None."""
    if not run.saved.has(part.name):
        return None
    try:
        others = part.start_from(run.saved.folder / part.name)
    except ModelError as error:
        return error.problem
    return None if others is None else ""


def _take_tensors(run: _Source, model: AttachedModel, name: str, part: Part | None) -> str:
    """Takes over the tensors of a part, or of a model without parts; returns why it can't."""
    groups = model.groups() if part is None else part.groups()
    heads = set() if model.base.heads is None else set(map(id, model.base.heads.parameters()))
    trained = {id(p) for group in groups for p in group.parameters} - heads
    own = model.trainable_state()
    names = {n for n, p in model.named_parameters() if id(p) in trained}
    if not names:
        return ""
    if part is not None:
        names |= {n for n in own if n.startswith((f"added.{name}.", f"extra.{name}."))}
    if run.unlike:
        return run.unlike
    if _network(model.genotype()) != _network(run.genotype):
        return "its network is another one; method.search.genotype gives the run's"
    unfit = [n for n in names if n not in run.state or run.state[n].shape != own[n].shape]
    if unfit:
        return f"{min(unfit)} is missing or has another shape there"
    with torch.no_grad():
        for each in names:
            own[each].copy_(run.state[each])
    return ""


def _take_heads(
    run: _Source, model: AttachedModel, left: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Takes over heads; returns the names of their tasks, and of all tasks of the run."""
    tasks, heads = run.saved.description.tasks, model.base.heads
    names = [task.name for task in tasks]
    saved = {n.rpartition(".")[2]: v for n, v in run.state.items() if n.startswith("base.heads.")}
    if heads is None:
        return [], names
    if not isinstance(heads, TaskHeads) or not saved:
        left["heads"] = "PEML doesn't know what they mean"
        return [], names
    old = TaskHeads(tasks, saved["weight"].shape[1], torch.Generator())
    old.load_state_dict(saved)
    others = heads.take_over(old)
    left |= {f"the head of {name}": reason for name, reason in others.items() if name in names}
    gone = sorted(set(names) - {task.name for task in heads.tasks})
    left |= {f"the head of {name}": "no task of this run" for name in gone}
    return [task.name for task in heads.tasks if task.name not in others], names
