"""Contexts stay on the model's device, and a step with them waits for one thing only.

`meta` stands for the GPU, see `tests.devices`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from peml.config.loading import load_config
from peml.data.solved import SolvedRows
from peml.injection import contexts
from peml.injection.inject import PrefixInjection, attach_prefix
from peml.methods.base import AttachContext
from peml.methods.context import held, part
from peml.models import TaskModel, load_backbone
from peml.run.preparation import prepare
from tests.devices import META, OnOneDevice, let_meta_stand_for_a_gpu
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e

_LOW_RANK = {"trains": "values", "kind": "low-rank", "rank": 2, "dropout": 0}
_VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": {"context": {}},
    "adapted": {"context": {"of": "adapted"}},
    "epoch": {"context": {"draw": "epoch"}},
    "step": {"context": {"draw": "step", "of": "adapted"}},
    "exact": {"context": {"leave_one_out": "exact"}},
    "masked": {"context": {"leave_one_out": "masked"}},
    "shared": {"context": {"scope": "shared"}},
    "low-rank": {"context": {}, "correction": _LOW_RANK},
    "free": {"context": {}, "correction": {"trains": "keys-values"}},
}


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_step_with_contexts_stays_on_the_device(
    variant: str, distinct_toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"name": "lora+context", "lora": {"r": 2}, **_VARIANTS[variant]}
    given["context"] = {"shots": 3, **given["context"]}
    prepared = prepare(load_config(toy_config(distinct_toys, "causal", given)))
    model = TaskModel(load_backbone(prepared.config.model, prepared.family), prepared.tasks)

    def move(backbone: nn.Module) -> PrefixInjection:
        injection = attach_prefix(backbone)  # it tries the model on a few tokens
        model.to(META)
        return injection

    monkeypatch.setattr(held, "attach_prefix", move)
    monkeypatch.setattr(part, "refuse_unfaithful", lambda *args: None)  # it compares numbers
    let_meta_stand_for_a_gpu(monkeypatch)
    solved = SolvedRows(prepared.loaded.data, prepared.stream, 1)
    context = AttachContext(seed=0, calibrate=lambda: None, solved=solved)
    with OnOneDevice(may_wait=True):
        attached = prepared.method.attach(model, context).to(META).train()
    batch = prepared.stream.fetch(prepared.stream.plan(0)[0])
    tasks = batch.task_ids.tolist()
    batch = batch.to(META)
    if variant != "shared":
        # What brings the rows of a task together is read from the device.
        order = contexts._order(tasks, batch.task_ids)
        monkeypatch.setattr(contexts.Contexts, "order", lambda all_tasks, rows: order)
    with OnOneDevice():
        attached.prepare(batch)
        loss = attached(batch).loss
        loss.backward()
    assert loss.device == META
    trained = [parameter for parameter in attached.parameters() if parameter.requires_grad]
    assert any(parameter.grad is not None for parameter in trained)
