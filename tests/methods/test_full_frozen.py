"""Everything trains, or nothing does."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from peml.errors import ConfigError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.frozen import Frozen
from peml.methods.full import Full
from peml.methods.settings import FrozenSettings, FullSettings
from peml.methods.shape import read_shape
from peml.testing import MethodSuite
from peml.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from peml.training.settings import TrainingSettings
from tests.methods.test_lora import batch, plain, scores
from tests.models.tasks import gradients

FAMILIES = ["bert", "llama", "t5", "gpt2"]
CONTEXT = AttachContext(seed=0, calibrate=lambda: None)


class TestFull(MethodSuite):
    settings = FullSettings()
    families: ClassVar = FAMILIES
    random_start = False

    def test_switched_off_it_is_the_plain_model(self, family: str) -> None:
        """There is nothing to switch off: no ablation."""
        assert not self.fresh(family).ablations()


class TestFrozen(MethodSuite):
    settings = FrozenSettings()
    families: ClassVar = ("bert",)  # text models have nothing that trains; see below
    random_start = False


def full(name: str) -> AttachedModel:
    return Full(FullSettings()).attach(plain(name), CONTEXT)


def step(model: AttachedModel, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    model(batch(model)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_full_trains_every_weight_once_embeddings_included(name: str) -> None:
    model = full(name)
    (group, *heads) = model.groups()
    assert (group.name, group.learning_rate) == ("backbone", 5e-5)
    assert [g.name for g in heads] == (["heads"] if name == "bert" else [])
    assert len({id(p) for p in group.parameters}) == len(group.parameters)
    model(batch(model)).loss.backward()
    assert (
        set(gradients(model.base.backbone)) == dict(model.base.backbone.named_parameters()).keys()
    )
    assert model.base.backbone.get_input_embeddings().weight.grad.any()


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_tied_weights_stand_once_in_groups_state_and_moments(name: str) -> None:
    model = full(name)
    backbone = model.base.backbone
    embedding = backbone.get_input_embeddings().weight
    tied = [n for n, p in backbone.named_parameters(remove_duplicate=False) if p is embedding]
    assert len(tied) > 1, "the tiny model ties its embeddings"
    assert sum(p.numel() for p in model.groups()[0].parameters) == sum(
        p.numel() for p in backbone.parameters()
    )
    optimizer = build_optimizer(model.groups(), TrainingSettings())
    step(model, optimizer)
    moments = {name.rpartition("/")[0] for name in optimizer_state(optimizer, model)}
    for names in (set(model.trainable_state()), moments):
        assert len(names & {f"base.backbone.{name}" for name in tied}) == 1


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_state_of_full_comes_back_and_goes_on(name: str) -> None:
    model = full(name)
    optimizer = build_optimizer(model.groups(), TrainingSettings())
    torch.manual_seed(0)
    step(model, optimizer)
    saved = {n: v.clone() for n, v in model.trainable_state().items()}
    moments = {n: v.clone() for n, v in optimizer_state(optimizer, model).items()}
    resumed = full(name)
    assert not torch.equal(scores(resumed), scores(model))
    resumed.load_trainable_state(saved)
    other = build_optimizer(resumed.groups(), TrainingSettings())
    load_optimizer_state(other, resumed, moments)
    for each, its in ((model, optimizer), (resumed, other)):
        torch.manual_seed(1)
        step(each, its)
    assert torch.equal(scores(resumed), scores(model))


def test_half_precision_weights_train_in_float32() -> None:
    """An update of 5e-5 would be lost in the 8 bits of a bfloat16 weight."""
    base = plain("llama")
    base.backbone.to(torch.bfloat16)
    model = Full(FullSettings()).attach(base, CONTEXT)
    assert {p.dtype for p in model.groups()[0].parameters} == {torch.float32}
    before = {n: v.clone() for n, v in model.trainable_state().items()}
    step(model, build_optimizer(model.groups(), TrainingSettings()))
    moved = model.trainable_state()
    assert [n for n in before if torch.equal(before[n], moved[n])] == []


@pytest.mark.parametrize("method", [Full(FullSettings()), Frozen(FrozenSettings())])
def test_neither_has_a_size_or_an_adapter(method: Full | Frozen) -> None:
    shape = read_shape(plain("bert"))
    assert method.resized(shape, 10_000) is None
    assert method.merging.how == "once"
    assert not method.needs_task_id


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
def test_a_frozen_text_model_has_nothing_to_train(name: str) -> None:
    model = Frozen(FrozenSettings()).attach(plain(name), CONTEXT)
    assert model.groups() == []
    assert model.trainable_state() == {}
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(scores(model), scores(plain(name)))
    optimizer = build_optimizer(model.groups(), TrainingSettings())
    assert optimizer_state(optimizer, model) == {}
    with pytest.raises(ConfigError, match="nothing is trained"):
        build_optimizer(model.groups(), TrainingSettings(learning_rates={"lora": 1.0}))
