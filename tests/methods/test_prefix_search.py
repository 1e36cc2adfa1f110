"""The search as a run drives it: who gets which gradient, and what it remembers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import TrainingError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.peml import Peml
from peml.methods.prefix.part import PrefixPart
from peml.methods.settings import PemlSettings
from peml.prefix.supernet import PrefixSupernet
from tests.models.tasks import gradients
from tests.training.toy import base, stream

STEPS = 20


class Rows:
    """Held-out rows, each draw another batch; counts what it is asked for."""

    def __init__(self, model: AttachedModel) -> None:
        self.model = model
        self.draws: list[int] = []
        self.measured: list[int] = []
        batches = stream(model.base)
        self.batches = [batches.next() for _ in range(5)]

    def loss(self, draw: int) -> Tensor:
        self.draws.append(draw)
        loss: Tensor = self.model.train()(self.batches[draw % 5]).loss
        return loss

    def measure(self, batches: int) -> float:
        self.measured.append(batches)
        with self.model.eval().prepared():
            return float(self.model(self.batches[0]).loss)


def attached(**search: Any) -> AttachedModel:
    prefix = {"length": [2, 4], "width": 8, "cells": 2, "operations": ["skip", "linear", "conv"]}
    settings = PemlSettings.model_validate({"prefix": prefix, "search": search, "lora": {"r": 2}})
    task_model = base()
    batch = stream(task_model).next()
    context = AttachContext(seed=0, calibrate=lambda: task_model(batch) and None)
    model = Peml(settings).attach(task_model, context)
    torch.manual_seed(3)
    with torch.no_grad():  # as after some training
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def supernet(model: AttachedModel) -> PrefixSupernet:
    part = model.parts["prefix"]
    assert isinstance(part, PrefixPart)
    assert isinstance(part.network, PrefixSupernet)
    return part.network


def begun(**search: Any) -> tuple[AttachedModel, Rows, TaskBatch]:
    model = attached(**search)
    rows = Rows(model)
    assert model.search is not None
    model.search.begin(STEPS, rows)
    return model, rows, stream(model.base, count=7).next()


def logit_gradients(model: AttachedModel) -> list[Tensor | None]:
    return [logits.grad for logits in supernet(model).architecture_parameters()]


def after_backward(batch: TaskBatch, step: int, **search: Any) -> dict[str, Tensor]:
    """Gradients of one training step."""
    model, _, _ = begun(**search)
    assert model.search is not None
    model.search.before_step(step)
    model.train()(batch).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("relaxation", ["softmax", "sampled-path"])
def test_bilevel_gradients_come_each_from_its_own_batch(relaxation: str) -> None:
    options: dict[str, Any] = {"optimise": "bilevel", "every": 2, "relaxation": relaxation}
    model, rows, batch = begun(**options)
    assert model.search is not None
    model.search.before_step(12)  # at least one layer is drawn on
    assert rows.draws == [3]  # the fourth turn: steps 6, 8, 10, 12
    names = {name for name, _ in model.named_parameters() if name.endswith("logits")}
    held_out = gradients(model)
    assert set(held_out) <= names  # weights get nothing from the held-out batch
    assert any(gradient.any() for gradient in held_out.values())
    model.train()(batch).loss.backward()
    found = gradients(model)
    for name, gradient in held_out.items():
        assert torch.equal(found[name], gradient)  # logits get nothing from the training batch
    # The weights' are those of the training batch alone.
    single = after_backward(batch, 12, relaxation=relaxation)
    assert set(found) == set(single)
    assert all(torch.equal(found[name], single[name]) for name in set(found) - names)
    assert any(not torch.equal(found[name], single[name]) for name in names)


def test_bilevel_gradient_is_that_of_the_held_out_loss() -> None:
    model, rows, _ = begun(optimise="bilevel", every=1, relaxation="softmax")
    search: Any = model.search
    search.before_step(9)
    found = logit_gradients(model)
    step = 1e-2
    for logits, gradient in zip(supernet(model).architecture_parameters(), found, strict=True):
        assert gradient is not None
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                logits[0] += sign * step
                losses.append(float(model.train()(rows.batches[3]).loss.double()))
                logits[0] -= sign * step
        assert gradient[0].item() == pytest.approx((losses[0] - losses[1]) / 2 / step, abs=2e-4)
    assert rows.draws == [3]


def test_bilevel_decisions_stand_between_their_turns() -> None:
    model, rows, batch = begun(optimise="bilevel", every=3, warmup=0.3, cooldown=0.2)
    assert model.search is not None
    moved = []
    for step in range(STEPS):
        model.zero_grad()
        model.search.before_step(step)
        model.train()(batch).loss.backward()
        if any(gradient is not None for gradient in logit_gradients(model)):
            moved.append(step)
    assert moved == [6, 9, 12, 15]
    assert rows.draws == [0, 1, 2, 3]


def test_a_search_that_needs_held_out_rows_says_so() -> None:
    model = attached(optimise="bilevel")
    assert model.search is not None
    model.search.begin(STEPS)
    with pytest.raises(ValueError, match="held-out rows"):
        model.search.before_step(10)


def test_a_step_with_accumulated_gradients_has_a_graph_for_each_batch() -> None:
    model, _, batch = begun()
    assert model.search is not None
    model.search.before_step(10)
    sums = []
    for _ in range(2):
        (model.train()(batch).loss / 2).backward()
        sums.append([g.clone() for g in logit_gradients(model) if g is not None])
    assert all(torch.allclose(2 * one, two) for one, two in zip(*sums, strict=True))


def test_decisions_that_are_no_numbers_stop_the_search() -> None:
    model, _, _ = begun()
    model.after_step(3)
    with torch.no_grad():
        supernet(model).decisions["cell.1"].logits[0] = torch.nan
    with pytest.raises(TrainingError, match=r"step 4.* no longer numbers: cell\.1"):
        model.after_step(3)


def test_a_held_out_gradient_that_is_no_number_stops_the_search() -> None:
    model, rows, _ = begun(optimise="bilevel", every=1)
    with torch.no_grad():
        for parameter in model.base.heads.parameters():  # type: ignore[union-attr]
            parameter.fill_(torch.inf)
    assert model.search is not None
    with pytest.raises(TrainingError, match=r"its step 11.*not finite"):
        model.search.before_step(10)
    assert rows.draws


@pytest.mark.parametrize("rule", ["argmax", "perturbation"])
def test_a_resumed_search_remembers(rule: str) -> None:
    options = {"discretise": rule, "cooldown": 0.4, "max_skips": 2}
    model, _, _ = begun(**options)
    search = model.search
    assert search is not None
    for step in range(15):
        search.before_step(step)
    state = json.loads(json.dumps(search.state_dict()))
    other, _, _ = begun(**options)
    resumed = other.search
    assert resumed is not None
    resumed.load_state_dict(state)
    for step in range(15, STEPS):
        search.before_step(step)
        resumed.before_step(step)
        assert search.snapshot(step) == resumed.snapshot(step)
    assert search.state_dict() == resumed.state_dict()
    assert search.discretise(STEPS)[0].cells == resumed.discretise(STEPS)[0].cells
