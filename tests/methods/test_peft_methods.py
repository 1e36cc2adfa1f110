"""HiRA and MiSS: their equations, sizes, and what PEFT alone loads."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from peml.errors import ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.lora import part
from peml.methods.lora.settings import HiraSettings, MissSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.testing import MethodSuite
from peml.testing.models import tiny_model
from tests.methods.test_lora import disturb, plain

needs_hira = pytest.mark.skipif(
    importlib.util.find_spec("peft.tuners.hira") is None, reason="HiRA needs PEFT 0.20"
)
METHODS = [pytest.param("hira", marks=needs_hira), "miss"]


@needs_hira
class TestHira(MethodSuite):
    settings = HiraSettings(r=2)
    families: ClassVar = ["bert", "llama", "t5", "gpt2"]
    learns_first = ("*.hira_B.*",)


class TestMiss(MethodSuite):
    settings = MissSettings(r=2)
    random_start = False
    learns_first = ("*.miss_block.*",)


def attach(method: str, name: str, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    base = plain(name)
    if dtype is not None:
        base.backbone.to(dtype)
    built = build_method(parse_method({"name": method, "r": 5, **options}))
    return built.attach(base, AttachContext(seed=0, calibrate=lambda: None))


def layers(model: AttachedModel, kind: str) -> list[Any]:
    found = [m for m in model.base.backbone.modules() if hasattr(m, kind)]
    assert found
    return found


def weight_of(base: Any) -> Tensor:
    weight: Tensor = base.weight
    return weight if isinstance(base, nn.Linear) else weight.T


def test_an_older_peft_without_hira_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft.tuners.hira", None)
    monkeypatch.delattr("peft.HiraConfig", raising=False)
    with pytest.raises(ModelError, match=r"PEFT \S+ has no HiRA\n.*PEFT 0.20 or newer"):
        attach("hira", "bert")


@needs_hira
@pytest.mark.parametrize("name", ["bert", "gpt2"])
@torch.no_grad()
def test_hira_multiplies_the_weights_by_a_low_rank_matrix(name: str) -> None:
    """y = (W + W * (B A)) x, element by element."""
    for layer in layers(disturb(attach("hira", name)), "hira_A"):
        base, change = layer.base_layer, layer.hira_B["default"] @ layer.hira_A["default"]
        weight = weight_of(base)
        x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(1))
        wanted = x @ (weight + weight * change).T + base.bias
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_miss_adds_one_matrix_of_the_summed_shards() -> None:
    """Shards of r inputs, the last filled up with zeros; r = 5 divides no width of the model."""
    for layer in layers(disturb(attach("miss", "bert")), "miss_block"):
        base, matrix = layer.base_layer, layer.miss_block["default"]
        x = torch.randn(3, base.in_features, generator=torch.Generator().manual_seed(1))
        summed = torch.zeros(3, 5)
        for channel in range(base.in_features):
            summed[:, channel % 5] += x[:, channel]
        torch.testing.assert_close(layer(x), base(x) + summed @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_half_precision_weights_get_a_float32_adapter_that_starts_as_nothing(
    method: str,
) -> None:
    model, bare = attach(method, "bert", dtype=torch.bfloat16), plain("bert")
    bare.backbone.to(torch.bfloat16)
    ids = torch.arange(8, 20)[None]
    assert {p.dtype for p in model.groups()[0].parameters} == {torch.float32}
    with torch.no_grad():
        fresh = model.base.backbone.eval()(input_ids=ids).last_hidden_state
        assert torch.equal(fresh, bare.backbone.eval()(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_saved_it_loads_with_peft_alone(method: str, name: str, tmp_path: Path) -> None:
    model = disturb(attach(method, name))
    model.save_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [method]
    loaded = PeftModel.from_pretrained(tiny_model(name), str(tmp_path / method)).eval()
    ids = torch.arange(8, 20)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :4]} if name == "t5" else {})
    with torch.no_grad():
        expected = model.base.backbone.eval()(**inputs).logits
        unchanged = tiny_model(name).eval()(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unchanged, expected, atol=1e-3)


def test_the_sizes_are_those_of_the_papers() -> None:
    """A layer of d_in x d_out: HiRA as LoRA, r (d_in + d_out); MiSS r d_out."""
    shape = read_shape(plain("bert"))
    linears = [layer for layer in shape.layers.linears if layer.kind == "linear"]
    hira, miss = (build_method(parse_method({"name": name, "r": 3})) for name in ("hira", "miss"))
    both = sum(3 * (layer.d_in + layer.d_out) for layer in linears)
    assert hira.count_parameters(shape) == {"hira": both}
    assert miss.count_parameters(shape) == {"miss": sum(3 * layer.d_out for layer in linears)}


@needs_hira  # older releases fill the shard up with zeros
def test_a_shard_wider_than_a_layers_inputs_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"miss can't be attached: `r` \(33\) must be less"
    ) as caught:
        attach("miss", "bert", r=33)
    assert "or change the settings" in str(caught.value)


def test_a_tuner_that_takes_other_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exactly_on = part._exactly_on

    def one_less(paths: set[str], tuner: Any) -> Any:
        return exactly_on(set(sorted(paths)[1:]), tuner)

    monkeypatch.setattr(part, "_exactly_on", one_less)
    with pytest.raises(ModelError, match="attached to other layers than asked for"):
        attach("miss", "llama")
