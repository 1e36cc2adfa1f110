"""The final model in the project's own format: merged weights, static prefix, heads, tasks.

::

    model/
      backbone/            the merged model and its tokenizer, as save_pretrained writes them
      lora/                the LoRA before merging, as PEFT saves it
      prefix.safetensors   keys and values of the active layers, where there is a prefix
      prompt.safetensors   vectors in front of the input embeddings, where there is a prompt
      adapter.safetensors  what the method can't merge, where it can't
      heads.safetensors    the encoder's heads
      peml.json            format, family, settings, tasks, how answers are scored and generated
      manifest.json        checksum of every file, written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import CheckpointError, ModelError
from peml.export.agreement import Agreement, answers, check_agreement
from peml.files import (
    atomic_folder,
    read_json,
    read_tensors,
    verify_manifest,
    write_json,
    write_tensors,
)
from peml.injection import attach_prefix
from peml.methods import AttachedModel, MethodSettings, build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.prefix import Prefix
from peml.tasks import Task

__all__ = ["load_model", "read_evaluation", "save_model"]

_FORMAT = 2
_ACTION = "restore the file, or export the model again from its run"


def save_model(
    model: AttachedModel,
    folder: Path,
    method: MethodSettings,
    evaluation: Mapping[str, Any] = MappingProxyType({}),
    probes: Sequence[TaskBatch] = (),
) -> Agreement | None:
    """Merges a trained model and writes it; the model can't be trained afterwards.

    Args:
        model: Trained; its LoRA is folded into the weights here.
        folder: Becomes the model's folder in one step.
        method: How it was trained; restores what can't be merged.
        evaluation: Settings of the run's evaluation, which predictions repeat; default: the
            project's own.
        probes: Rows that the trained model and the one read back from disk have to answer alike,
            each batch of one task. With them the model given is let go after it is written, so
            that there is only one in memory.

    Returns:
        How near the two models are; None without probes.

    Raises:
        ModelError: A weight is NaN or infinite once merged.
        RunError: The two answer otherwise. There is no folder then.
    """
    base, device = model.base, model.base.device
    trained = answers(model, probes)
    with atomic_folder(folder) as partial:
        model.save_parts(partial)
        kept = {name: value.clone() for name, value in model.kept().items()}
        prefix = model.merge()
        _refuse_not_finite(base, [*kept.values(), *([] if prefix is None else [prefix.tensor])])
        base.backbone.save_pretrained(partial / "backbone")
        base.family.tokenizer.save_pretrained(partial / "backbone")
        if prefix is not None:
            write_tensors(partial / "prefix.safetensors", {"prefix": prefix.tensor})
        if base.prompt.vectors is not None:
            write_tensors(partial / "prompt.safetensors", {"prompt": base.prompt.vectors})
        if kept:
            write_tensors(partial / "adapter.safetensors", kept)
        if base.heads is not None:
            write_tensors(partial / "heads.safetensors", base.heads.state_dict())
        settings = base.settings.model_dump(mode="json")
        write_json(
            partial / "peml.json",
            {
                "format": _FORMAT,
                "base_model": base.settings.name,
                "method": method.model_dump(mode="json"),
                "model": {**settings, "family": base.family.name, "revision": None},
                "prefix_active": None if prefix is None else list(prefix.active),
                "evaluation": dict(evaluation),
                "tasks": [task.model_dump(mode="json") for task in base.tasks],
            },
        )
        if not probes:
            return None
        model.to("meta")
        saved = _load(partial, device)
        return check_agreement(trained, answers(saved, probes), probes, saved)


def _refuse_not_finite(base: TaskModel, beside: Sequence[Tensor]) -> None:
    """Refuses weights that no answer could come from.

    Args:
        base: The merged model.
        beside: What is saved beside its weights.
    """
    named: list[tuple[str, Tensor]] = [
        *base.named_parameters(),
        *((f"number {number} beside the backbone", each) for number, each in enumerate(beside)),
    ]
    wrong = [name for name, tensor in named if not bool(tensor.isfinite().all())]
    if wrong:
        raise ModelError(
            f"{len(wrong)} of the merged model's tensors are NaN or infinite, {wrong[0]!r} among "
            "them",
            allowed="finite weights",
            action=base.not_finite_advice,
        )


def load_model(folder: Path, device: torch.device | None = None) -> TaskModel:
    """Loads a saved model, its files verified, ready for prediction.

    Args:
        folder: What `save_model` wrote.
        device: Where to put it; default: the CPU.

    Raises:
        CheckpointError: A file is missing or altered, or the format is a newer one.
    """
    verify_manifest(folder, _ACTION)
    return _load(folder, device)


def _load(folder: Path, device: torch.device | None) -> TaskModel:
    description = read_json(folder / "peml.json")
    if description["format"] != _FORMAT:
        raise CheckpointError(
            f"{folder} is of format {description['format']}",
            allowed=f"format {_FORMAT}",
            action="load it with the version of peml that wrote it",
        )
    stored = {**description["model"], "name": str(folder / "backbone")}
    settings = ModelSettings.model_validate(stored)
    tasks = [Task.model_validate(task) for task in description["tasks"]]
    model = TaskModel(load_backbone(settings), tasks)
    if model.heads is not None:
        model.heads.load_state_dict(read_tensors(folder / "heads.safetensors"))
    _attach_static_prefix(model, folder, description)
    if (folder / "prompt.safetensors").is_file():
        model.prompt.set(read_tensors(folder / "prompt.safetensors")["prompt"])
    if (folder / "adapter.safetensors").is_file():
        method = build_method(parse_method(description["method"]))
        method.restore(model, read_tensors(folder / "adapter.safetensors"))
    return model.to(device or torch.device("cpu")).eval()


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Settings of the evaluation that a model which `load_model` has loaded was saved with."""
    evaluation: dict[str, Any] = read_json(folder / "peml.json")["evaluation"]
    return evaluation


def _attach_static_prefix(model: TaskModel, folder: Path, description: dict[str, Any]) -> None:
    active = description["prefix_active"]
    if active is None:
        return
    tensor = read_tensors(folder / "prefix.safetensors")["prefix"]
    attach_prefix(model.backbone).set(Prefix(tensor, tuple(active)))
