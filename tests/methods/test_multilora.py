"""MultiLoRA as a method: size, groups, one merge for all tasks."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from peml.methods.base import AttachContext
from peml.methods.routed.multilora import MultiLora
from peml.methods.routed.settings import MultiLoraSettings
from peml.testing import tiny_model, tiny_task_model
from tests.methods.published import LLAMA_ATTENTION, millions


def test_it_has_as_many_parameters_as_published() -> None:
    assert millions(MultiLoraSettings(r=8, branches=3)) == 26.74


def test_the_scales_learn_faster_and_do_not_decay() -> None:
    """They start at zero: decay would hold them there."""
    settings = MultiLoraSettings(r=2, scaling_learning_rate=0.3)
    context = AttachContext(seed=0, calibrate=lambda: None)
    groups = MultiLora(settings).attach(tiny_task_model("llama"), context).groups()
    assert [group.name for group in groups] == ["adapter", "scaling"]
    assert (groups[1].learning_rate, groups[1].options) == (0.3, {"weight_decay": 0.0})
    assert not any(parameter.any() for parameter in groups[1].parameters)


def test_it_merges_once_and_needs_no_task_id() -> None:
    method = MultiLora(MultiLoraSettings())
    assert (method.merging.how, method.needs_task_id) == ("once", False)


def test_another_budget_is_met_by_another_rank() -> None:
    sized = MultiLora(MultiLoraSettings(r=4, alpha=8)).resized(LLAMA_ATTENTION, 26_740_000)
    assert isinstance(sized, MultiLoraSettings)
    assert (sized.r, sized.alpha, sized.branches) == (8, 16.0, 3)


def test_saved_it_is_a_lora_of_rank_branches_times_r(tmp_path: Path) -> None:
    context = AttachContext(seed=0, calibrate=lambda: None)
    model = MultiLora(MultiLoraSettings(r=2)).attach(tiny_task_model("gpt2"), context).eval()
    with torch.no_grad():
        for parameter in model.groups()[1].parameters:
            parameter.normal_()
        model.save_parts(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_model("gpt2"), str(tmp_path / "lora")).eval()
        ids = torch.arange(8, 20)[None]
        wanted = model.base.backbone(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert loaded.peft_config["default"].r == 6
