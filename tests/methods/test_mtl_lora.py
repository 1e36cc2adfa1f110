"""MTL-LoRA as a method: size, groups, what it says of merging."""

from __future__ import annotations

import pytest
import torch

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.routed.mtl_lora import MtlLora, MtlLoraDelta
from peml.methods.routed.settings import MtlLoraSettings
from peml.testing import tiny_task_model
from tests.methods.published import LLAMA_ATTENTION, millions


def attach(settings: MtlLoraSettings) -> AttachedModel:
    context = AttachContext(seed=0, calibrate=lambda: None)
    return MtlLora(settings).attach(tiny_task_model("bert"), context)


def test_it_has_as_many_parameters_as_published() -> None:
    assert millions(MtlLoraSettings(r=8, bases=3)) == 16.85


def test_the_mix_learns_faster_and_does_not_decay() -> None:
    model = attach(MtlLoraSettings(r=2, learning_rate=0.1, routing_learning_rate=0.7))
    groups = {group.name: group for group in model.groups()}
    assert list(groups) == ["adapter", "routing", "heads"]
    assert (groups["adapter"].learning_rate, groups["routing"].learning_rate) == (0.1, 0.7)
    assert groups["routing"].options == {"weight_decay": 0.0}
    assert groups["adapter"].options == {}
    deltas = [m for m in model.modules() if isinstance(m, MtlLoraDelta)]
    assert {id(p) for p in groups["routing"].parameters} == {id(d.mixing) for d in deltas}


def test_the_update_is_scaled_by_alpha_over_rank() -> None:
    deltas = [
        next(m for m in attach(settings).modules() if isinstance(m, MtlLoraDelta))
        for settings in (MtlLoraSettings(r=2, alpha=4), MtlLoraSettings(r=2, alpha=12))
    ]
    assert [delta.scale for delta in deltas] == [2.0, 6.0]
    with torch.no_grad():
        for delta in deltas:
            delta.up.fill_(1.0)
            delta.routing.one_task(1, torch.device("cpu"))
    x = torch.randn(2, 3, deltas[0].layer.d_in)
    torch.testing.assert_close(3 * deltas[0](x), deltas[1](x))


@pytest.mark.parametrize("transform", ["full", "diagonal"])
def test_another_budget_is_met_by_another_rank(transform: str) -> None:
    settings = MtlLoraSettings.model_validate({"transform": transform, "alpha": 32})
    sized = MtlLora(settings).resized(LLAMA_ATTENTION, 8_390_000)
    assert isinstance(sized, MtlLoraSettings)
    assert (sized.r, sized.alpha) == (4, 16.0)
    assert sized.transform == transform


def test_it_merges_per_task_and_says_why() -> None:
    method = MtlLora(MtlLoraSettings())
    assert method.merging.how == "per task"
    assert "transform" in method.merging.reason
    assert method.needs_task_id


def test_only_the_layers_asked_for_change() -> None:
    model = attach(MtlLoraSettings(r=2, target_modules=("query", "value")))
    adapted = {n.rpartition(".")[0] for n, m in model.named_modules() if n.endswith(".delta")}
    assert len(adapted) == 4
    assert all(name.endswith(("query", "value")) for name in adapted)
