"""What a finished run leaves, made of tiny models that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from peml.export import save_model
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing import TINY_TASKS, batch_of, save_tiny_model
from peml.testing.tasks import tasks_with_contexts

_SMALL: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 2}},
    "mtl-lora": {"r": 2},
    "multilora": {"r": 2},
    "c-poly": {},
    "moe-lora": {"r": 4, "experts": 2},
    "lora+context": {"lora": {"r": 2}, "context": {"of": "adapted"}},
    "context-tuning": {"context": {"leave_one_out": None}},
    "lora+prefix": {"lora": {"r": 2}, "length": 2, "width": 4},
    "peml": {"lora": {"r": 2}},
    "prompt-tuning": {"length": 2},
    "full": {},
    "frozen": {},
}


def settings_of(method: str, **options: Any) -> MethodSettings:
    """The method's section, small."""
    return parse_method({"name": method, **_SMALL.get(method, {}), **options})


def attach(
    base: str, method: str, folder: Path, *, dtype: Any = "float32", **options: Any
) -> AttachedModel:
    """A tiny model with a method whose weights have moved, as after some training."""
    name = folder / base
    if not name.is_dir():
        save_tiny_model(base, name)
    loaded = load_backbone(ModelSettings(name=str(name), max_length=64, dtype=dtype))
    settings = settings_of(method, **options)
    tasks = TINY_TASKS if build_method(settings).context is None else tasks_with_contexts()
    model = TaskModel(loaded, tasks)
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=9)
    attached = build_method(settings).attach(model, context).eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in attached.groups():
            for parameter in group.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)
    return attached


def run_of(base: str, method: str, folder: Path, *, dtype: Any = "float32", **options: Any) -> Path:
    """What a finished run leaves, as far as an export reads it."""
    run = folder / f"run-{base}-{method}"
    settings = settings_of(method, **options)
    save_model(attach(base, method, folder, dtype=dtype, **options), run / "model", settings)
    return run
