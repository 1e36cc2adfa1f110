"""rsLoRA and DoRA: their equations, what trains, and what PEFT alone loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method
from peml.methods.lora.dora import Dora
from peml.methods.lora.lora import Lora, RsLora
from peml.methods.lora.settings import DoraSettings, RsLoraSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.testing import MethodSuite
from peml.testing.models import tiny_model
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings
from tests.methods.test_lora import batch, disturb, plain, scores

NAMES = ["rslora", "dora"]
FAMILIES = ["bert", "llama", "t5", "gpt2"]


class TestRsLora(MethodSuite):
    settings = RsLoraSettings(r=2)
    families: ClassVar = FAMILIES
    learns_first = ("*.lora_B.*",)

    def test_resizing_meets_a_budget(self, family: str) -> None:
        """As the suite's, but alpha stays: that the scale falls with the rank is the method."""
        shape = read_shape(self.plain(family))
        budget = 30 * sum(self.method().count_parameters(shape).values())
        settings = self.method().resized(shape, budget)
        assert isinstance(settings, RsLoraSettings)
        reached = sum(build_method(settings).count_parameters(shape).values())
        assert abs(reached - budget) <= 0.05 * budget
        assert settings.r == 60
        assert settings.alpha == 16


class TestDora(MethodSuite):
    settings = DoraSettings(r=2)
    families: ClassVar = FAMILIES
    learns_first = ("*.lora_B.*", "*.lora_magnitude_vector.*")


def attach(method: str, name: str, *, dtype: torch.dtype | None = None, **lora: Any) -> Any:
    base = plain(name)
    if dtype is not None:
        base.backbone.to(dtype)
    built: Method = build_method(parse_method({"name": method, "r": 4} | lora))
    return built.attach(base, AttachContext(seed=0, calibrate=lambda: None))


def layers(model: AttachedModel) -> dict[str, Any]:
    return {n: m for n, m in model.base.backbone.named_modules() if isinstance(m, LoraLayer)}


def changed(method: str, name: str, **lora: Any) -> AttachedModel:
    """After some training: every group is moved."""
    model: AttachedModel = disturb(attach(method, name, **lora))
    with torch.no_grad():
        for group in model.groups()[1:]:
            for parameter in group.parameters:
                noise = torch.Generator().manual_seed(parameter.numel())
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=noise))
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_rslora_divides_alpha_by_the_root_of_the_rank(name: str) -> None:
    model = changed("rslora", name, r=4, alpha=6)
    assert layers(model)
    for path, layer in layers(model).items():
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        x = torch.randn(3, down.shape[1], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = layer.base_layer(x) + 6 / math.sqrt(4) * x @ down.T @ up.T
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4, msg=path)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_dora_scales_each_row_of_the_changed_weight_to_its_magnitude(name: str) -> None:
    """W' = m (W + s B A) / ||W + s B A||, row by row; the bias is left alone."""
    model = changed("dora", name, r=4, alpha=6)
    assert layers(model)
    for path, layer in layers(model).items():
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        magnitude = layer.lora_magnitude_vector["default"].weight
        base = layer.base_layer
        weight = base.weight.T if name == "gpt2" else base.weight
        with torch.no_grad():
            directions = weight + 6 / 4 * up @ down
            pairs = zip(magnitude, directions, strict=True)
            rows = [m * row / row.pow(2).sum().sqrt() for m, row in pairs]
            x = torch.randn(3, down.shape[1], generator=torch.Generator().manual_seed(1))
            expected = x @ torch.stack(rows).T + (0 if base.bias is None else base.bias)
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4, msg=path)


def test_the_magnitudes_are_a_group_without_weight_decay() -> None:
    model = attach("dora", "bert", learning_rate=0.5)
    groups = {group.name: group for group in model.groups()}
    assert list(groups) == ["lora", "magnitude", "heads"]
    outputs = [layer.base_layer.out_features for layer in layers(model).values()]
    assert sum(p.numel() for p in groups["magnitude"].parameters) == sum(outputs)
    assert groups["lora"].learning_rate == groups["magnitude"].learning_rate == 0.5
    optimizer = build_optimizer(model.groups(), TrainingSettings(weight_decay=0.1))
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"lora": 0.1, "magnitude": 0.0, "heads": 0.1}


@pytest.mark.parametrize("method", NAMES)
def test_frozen_half_precision_weights_get_a_float32_adapter_that_starts_as_nothing(
    method: str,
) -> None:
    """The magnitudes are the norms of the stored weights to float32, not to their precision."""
    model = attach(method, "bert", dtype=torch.bfloat16)
    own = [p for group in model.groups() if group.name != "heads" for p in group.parameters]
    assert {p.dtype for p in own} == {torch.float32}
    with model.ablations()["lora_off"]():
        expected = scores(model)
    assert torch.equal(scores(model), expected)
    model.train()
    model(batch(model)).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in own)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_saved_it_loads_with_peft_alone(method: str, name: str, tmp_path: Path) -> None:
    model = changed(method, name, r=4, alpha=6)
    model.save_parts(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(name), str(tmp_path / "lora")).eval()
    ids = torch.arange(8, 20)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :4]} if name == "t5" else {})
    with torch.no_grad():
        expected = model.base.backbone.eval()(**inputs).logits
        unchanged = tiny_model(name).eval()(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unchanged, expected, atol=1e-2)


def test_doras_rank_leaves_room_for_the_magnitudes() -> None:
    shape = read_shape(plain("bert"))
    method = Dora(DoraSettings())
    fixed = method.count_parameters(shape)["magnitude"]
    at_16 = sum(Dora(_dora(16)).count_parameters(shape).values())
    settings = method.resized(shape, at_16)
    assert isinstance(settings, DoraSettings)
    assert (settings.r, settings.alpha) == (16, 32)
    least = method.resized(shape, fixed // 2)  # not even the magnitudes fit
    assert isinstance(least, DoraSettings)
    assert least.r == 1


def _dora(r: int) -> DoraSettings:
    return DoraSettings(r=r)


def test_each_is_a_lora_and_no_more_than_its_options() -> None:
    """What the family shares is said once."""
    assert issubclass(RsLora, Lora)
    assert issubclass(Dora, Lora)
    assert [type(attach(n, "bert").parts["lora"]).__name__ for n in NAMES] == [
        "LoraPart",
        "DoraPart",
    ]
