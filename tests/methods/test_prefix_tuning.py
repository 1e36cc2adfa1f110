"""Prefix tuning and its flat prefix, alone and beside LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from peml.errors import ModelError
from peml.export import load_model, save_model
from peml.injection.inject import injection_of
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext, Method
from peml.methods.lora.settings import LoraSettings
from peml.methods.prefix.part import PrefixPart
from peml.methods.prefix.settings import PrefixTuningSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.settings import LoraPrefixSettings
from peml.methods.shape import read_shape
from peml.prefix.flat import FlatPrefix
from peml.prefix.genotype import Genotype
from peml.prefix.prefix import Prefix
from peml.testing import MethodSuite
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model
from tests.models.tasks import gradients

_LORA = LoraSettings(r=2)
_TEXT = "the old dog sleeps and the young cat runs home to the river"
_NETWORK = "added.prefix.network."
_HEAD = f"{_NETWORK}head.last.weight"


class TestMlp(MethodSuite):
    settings = PrefixTuningSettings(length=4, width=8)
    identity_at_start = False
    learns_first = (_HEAD,)
    # The MLP's last layer starts at zero as well: what is before it comes a step later.
    learns_later = (
        _HEAD,
        f"{_NETWORK}embeddings",
        f"{_NETWORK}norm.*",
        f"{_NETWORK}cells.0.operation.last.*",
    )


class TestMlpAtAText(TestMlp):
    settings = PrefixTuningSettings(length=4, width=8, start="text", text=_TEXT)
    families = ("llama",)
    identity_at_start = False


class TestFlat(MethodSuite):
    settings = PrefixTuningSettings(network="flat", length=4)
    identity_at_start = False


class TestUnboundedFlat(MethodSuite):
    settings = PrefixTuningSettings(network="flat", length=4, bounded=False)
    families = ("bert",)
    identity_at_start = False


class TestFlatBesideLora(MethodSuite):
    settings = LoraPrefixSettings(network="flat", length=4, lora=_LORA)
    identity_at_start = False


class TestMlpBesideLora(MethodSuite):
    settings = LoraPrefixSettings(length=4, width=8, lora=_LORA)
    families = ("gpt2",)
    identity_at_start = False
    learns_first = (_HEAD, "*.lora_B.*")
    learns_later = (*TestMlp.learns_later, "*.lora_*")


def attach(tiny: str = "bert", **settings: Any) -> AttachedModel:
    model = tiny_task_model(tiny, TINY_TASKS)
    made = parse_method({"name": "prefix-tuning", "length": 4, "width": 8, **settings})
    return build_method(made).attach(model, AttachContext(0, lambda: _run(model))).eval()


def _run(model: Any) -> None:
    with torch.no_grad():
        model(batch_of(getattr(model, "base", model)))


def scores(model: Any) -> Tensor:
    with torch.no_grad():
        made: Tensor = model(batch_of(getattr(model, "base", model))).scores
    return made


def part(model: AttachedModel) -> PrefixPart:
    found = model.parts["prefix"]
    assert isinstance(found, PrefixPart)
    return found


def prefix(model: AttachedModel) -> Prefix:
    made = part(model).static_prefix()
    assert made is not None
    return made


def test_quietness_and_radius_reach_the_flat_prefix() -> None:
    loud, quiet = (prefix(attach(network="flat", quietness=c)).tensor for c in (1.0, 8.0))
    torch.testing.assert_close(8 * loud[:, 0], quiet[:, 0])
    model = attach(network="flat", radius=0.5)
    before = prefix(model).tensor
    (group, *_) = model.groups()
    with torch.no_grad():
        group.parameters[0].fill_(1e5)
    moved = (prefix(model).tensor - before).norm(dim=-1)
    network = part(model).network
    assert isinstance(network, FlatPrefix)
    assert network.limit is not None
    torch.testing.assert_close(moved, network.limit[..., 0].expand_as(moved), rtol=1e-3, atol=1e-3)


def test_an_mlp_without_a_bound_is_refused() -> None:
    with pytest.raises(ValidationError, match="network: flat"):
        PrefixTuningSettings(bounded=False)


@pytest.mark.parametrize("name", ["prefix-tuning", "lora+prefix"])
def test_only_a_network_has_a_genotype(name: str) -> None:
    assert isinstance(attach(name=name).genotype(), Genotype)
    assert attach(name=name, network="flat").genotype() is None


def test_the_rate_is_the_settings() -> None:
    (group, heads) = attach(network="flat", learning_rate=0.5).groups()
    assert (group.name, group.learning_rate) == ("prefix", 0.5)
    assert heads.name == "heads"


@pytest.mark.parametrize(
    ("name", "network", "rate"),
    [
        ("lora+prefix", "mlp", 1e-3),
        ("lora+prefix", "flat", 0.1),
        ("prefix-tuning", "mlp", 2e-2),
        ("prefix-tuning", "flat", 0.2),
    ],
)
def test_the_default_rate_is_that_of_the_network_and_its_company(
    name: str, network: str, rate: float
) -> None:
    groups = {g.name: g.learning_rate for g in attach(name=name, network=network).groups()}
    assert groups["prefix"] == rate


def test_a_prefix_alone_starts_louder_than_one_beside_a_lora() -> None:
    assert PrefixTuningSettings().quietness < LoraPrefixSettings().quietness


def test_configs_of_before_still_work() -> None:
    section: dict[str, Any] = {
        "name": "lora+prefix",
        "lora": {"r": 2},
        "length": 3,
        "width": 8,
        "quietness": 2.0,
        "radius": 0.5,
        "prefix_learning_rate": 0.01,
    }
    settings = parse_method(section)
    assert isinstance(settings, LoraPrefixSettings)
    assert settings.network == "mlp"
    model = attach(**section)
    assert [g.name for g in model.groups()] == ["lora", "prefix", "heads"]
    assert model.genotype() == Genotype.fixed_mlp(
        part(model).injection.shape, length=3, width=8, radius=0.5
    )


def test_the_saved_prefix_is_the_trained_one(tmp_path: Path) -> None:
    settings = PrefixTuningSettings(network="flat", length=4)
    model = attach("llama", network="flat")
    with torch.no_grad():
        part(model).network.get_parameter("correction").normal_()
    before, static = scores(model), prefix(model)
    save_model(model, tmp_path / "model", settings)
    loaded = load_model(tmp_path / "model")
    found = injection_of(loaded.backbone)
    assert found is not None
    assert found.prefix is not None
    assert torch.equal(found.prefix.tensor, static.tensor)
    torch.testing.assert_close(scores(loaded), before, rtol=1e-5, atol=1e-5)


def test_resumed_it_has_the_start_of_the_first_session() -> None:
    model = attach(network="flat", start="text", text=_TEXT)
    state = {name: value.clone() for name, value in model.trainable_state().items()}
    other = tiny_task_model("bert", TINY_TASKS, seed=1)
    context = AttachContext(9, lambda: _run(other))
    settings = PrefixTuningSettings(network="flat", length=4, start="text", text=_TEXT)
    again = build_method(settings).attach(other, context)
    again.load_trainable_state(state)
    assert torch.equal(prefix(again).tensor, prefix(model).tensor)


def test_nothing_of_the_frozen_model_learns() -> None:
    model = attach(network="flat")
    model(batch_of(model.base)).loss.backward()
    assert {name for name in gradients(model) if "heads" not in name} == {
        "added.prefix.network.correction"
    }


@pytest.mark.parametrize("name", ["prefix-tuning", "lora+prefix", "peml"])
def test_a_model_without_such_attention_is_one_clear_message(name: str) -> None:
    method: Method = build_method(parse_method({"name": name}))
    model = tiny_task_model("deberta-v2", TINY_TASKS)
    with pytest.raises(ModelError, match="take a prefix"):
        method.count_parameters(read_shape(model))
    with pytest.raises(ModelError):
        method.attach(model, AttachContext(0, lambda: _run(model)))
