"""A training step reads nothing from the device, and mixes no tensors of two devices.

The model is on the `meta` device, whose tensors have no values: what would make a GPU finish its
work first (`item`, `tolist`, `nonzero`, masks as indices, a copy to the CPU, an `if` over a tensor)
raises there. Copies to the device are watched too: one that blocks waits as well. A GPU refuses
tensors of the CPU, which `meta` takes without a word, so each operation's are compared.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from peml.data import Collator
from peml.data.batching import BatchStream
from peml.data.encoding import encode_rows
from peml.data.settings import BatchSettings
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import TaskModel
from peml.records.metrics import Scores
from peml.testing import tiny_task_model
from peml.training.balancing import build_balancing
from peml.training.loop import Phase, TrainingLoop
from peml.training.settings import TrainingSettings
from tests.devices import META, OnOneDevice, let_meta_stand_for_a_gpu
from tests.models.tasks import examples
from tests.training.toy import TASKS, Recorder, rows


class _Accelerator:
    """Stands for a GPU."""

    device = META
    clip_grad_norm_ = staticmethod(torch.nn.utils.clip_grad_norm_)

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


@pytest.fixture(autouse=True)
def _on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    let_meta_stand_for_a_gpu(monkeypatch)


def _stream(model: TaskModel) -> BatchStream:
    splits = [
        encode_rows(examples(task, of_task), task, model.family, "train")
        for task, of_task in zip(TASKS, rows(12), strict=True)
    ]
    collate = Collator(model.family.tokenizer.pad_token_id)
    return BatchStream(splits, BatchSettings(tokens=4096, rows=4), collate, seed=0)


def _optimizer(model: AttachedModel) -> torch.optim.Optimizer:
    # Conversion to `meta` has replaced the parameters, so a part may hold the ones before.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    group = {"params": trained, "name": "all", "lr": 1e-3, "peak": 1e-3, "constant_rate": True}
    return torch.optim.AdamW([group])  # the fused one isn't made for `meta`


def _trained(family: str, method: dict[str, Any], steps: int = 3, **training: Any) -> Recorder:
    base = tiny_task_model(family, TASKS)
    stream = _stream(base)
    first = stream.fetch(stream.plan(0)[0])
    context = AttachContext(seed=0, calibrate=lambda: base(first) and None, total_steps=steps)
    model = build_method(parse_method(method)).attach(base, context)
    options = TrainingSettings.model_validate({"log_every": 100} | training)
    balancing = build_balancing(options.balancing, [task.name for task in TASKS], seed=0)
    model.added["balancing"] = balancing
    model.to(META)
    recorder, optimizer = Recorder(), _optimizer(model)
    loop = TrainingLoop(
        model,
        optimizer,
        stream,
        _Accelerator(),
        options,
        balancing=balancing,
        total_steps=steps,
        evaluate=lambda: Scores(mean=0, tasks={}),
        listener=recorder,
    )
    loop.progress.step = 1  # the first step is read at once
    phase = Phase("train", steps)
    if model.search is not None:
        model.search.begin(steps)
        phase = Phase("search", steps, before_step=model.search.before_step)
    with OnOneDevice():
        while loop.progress.step < steps:
            phase.before_step(loop.progress.step)
            loop._step(phase)
    assert optimizer.state  # something has moved
    return recorder


_PREFIX = {"length": [2, 4], "width": 8, "cells": 2, "operations": ["skip", "linear", "conv"]}
_MOVING = {"warmup": 0.25, "cooldown": 0}  # a cool-down reads the choices in its first step
_METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "r": 2},
    "mtl-lora": {"name": "mtl-lora", "r": 2},
    "moe-lora": {"name": "moe-lora", "r": 2, "experts": 2},
    "router": {"name": "moe-lora", "r": 2, "experts": 2, "routing": "token"},
    "prompt": {"name": "prompt-tuning"},
    "prefix": {"name": "prefix-tuning", "length": 3, "dropout": 0.3},
    "softmax": {"name": "peml", "prefix": _PREFIX, "lora_ranks": [1, 2], "search": _MOVING},
    "gumbel": {"name": "peml", "prefix": _PREFIX, "search": {**_MOVING, "relaxation": "gumbel"}},
}


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("method", _METHODS)
def test_a_step_waits_for_nothing(family: str, method: str) -> None:
    recorder = _trained(family, _METHODS[method])
    assert recorder.steps == []  # all numbers are still on the device


@pytest.mark.parametrize("strategy", ["running-mean", "uncertainty", "pcgrad"])
def test_balancing_waits_for_nothing(strategy: str) -> None:
    _trained("bert", _METHODS["lora"], balancing={"strategy": strategy}, accumulation=2)


def test_reading_a_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        AttachedModel, "after_step", lambda self, step: self.base.heads.bias.tolist()
    )
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _trained("bert", _METHODS["lora"])
