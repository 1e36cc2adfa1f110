"""C-Poly as a method: size, groups, and what the step's noise leaves alone."""

from __future__ import annotations

import torch

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.routed.c_poly import CPoly
from peml.methods.routed.settings import CPolySettings
from peml.testing import batch_of, tiny_task_model
from tests.methods.published import LLAMA_ATTENTION, millions


def attach(**settings: object) -> AttachedModel:
    context = AttachContext(seed=0, calibrate=lambda: None)
    method = CPoly(CPolySettings.model_validate(settings))
    model = method.attach(tiny_task_model("bert", hidden_dropout_prob=0.0), context)
    with torch.no_grad():
        for parameter in model.groups()[0].parameters:
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model


def test_it_has_as_many_parameters_as_published() -> None:
    assert millions(CPolySettings(r=8, shared=3, own=1)) == 92.29
    # Poly: four skills, no own ones.
    assert millions(CPolySettings(r=8, shared=4, own=0, mixing="factors")) == 33.56


def test_its_published_setting_is_the_default() -> None:
    settings = CPolySettings()
    assert (settings.shared, settings.own, settings.r) == (3, 1, 2)
    assert (settings.mixing, settings.own_matrix) == ("outputs", "full")


def test_the_skills_weights_learn_faster_and_do_not_decay() -> None:
    groups = {group.name: group for group in attach().groups()}
    assert list(groups) == ["adapter", "routing", "heads"]
    assert groups["routing"].learning_rate > groups["adapter"].learning_rate
    assert groups["routing"].options == {"weight_decay": 0.0}


def test_training_is_noisy_and_evaluation_is_not() -> None:
    model = attach()
    batch = batch_of(model.base)
    with torch.no_grad():
        first, again = (model.train()(batch).scores for _ in range(2))
        assert not torch.allclose(first, again)
        first, again = (model.eval()(batch).scores for _ in range(2))
    assert torch.equal(first, again)


def test_another_budget_is_met_by_another_rank() -> None:
    settings = CPolySettings(r=2, alpha=6, own_matrix="diagonal")
    sized = CPoly(settings).resized(LLAMA_ATTENTION, 92_290_000)
    assert isinstance(sized, CPolySettings)
    assert (sized.r, sized.alpha, sized.own_matrix) == (8, 24.0, "diagonal")


def test_it_merges_per_task_and_says_why() -> None:
    method = CPoly(CPolySettings())
    assert method.merging.how == "per task"
    assert "weighs the skills" in method.merging.reason
    assert method.needs_task_id
