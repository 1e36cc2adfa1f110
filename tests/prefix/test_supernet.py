"""The supernet: a harmless start, gradients, and equality with what it is discretised to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.errors import ConfigError
from peml.prefix.operations.registry import DEFAULT_OPERATIONS, SKIP
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.space import SearchSpace
from peml.prefix.supernet import Decision, PrefixSupernet

SHAPE = PrefixShape(layers=3, kv_heads=2, head_dim=4)


def start_for(shape: PrefixShape = SHAPE) -> PrefixStart:
    generator = torch.Generator().manual_seed(5)
    return PrefixStart(
        keys=torch.randn(shape.layers, shape.kv_heads, shape.head_dim, generator=generator),
        radius=torch.rand(shape.layers, 2, generator=generator) + 0.5,
    )


def make(**options: object) -> PrefixSupernet:
    torch.manual_seed(0)
    values: dict[str, object] = {
        "length": (3, 5, 8),
        "width": 12,
        "cells": 2,
        "head": ("full", "low-rank"),
        "head_rank": 3,
    }
    chosen = PrefixSettings.model_validate(values | options)
    return PrefixSupernet(chosen.space(SHAPE), SHAPE, start_for())


def stir(supernet: PrefixSupernet, amount: float = 0.3) -> PrefixSupernet:
    """Moves every weight, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.weight_parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return supernet


def soft(supernet: PrefixSupernet) -> dict[str, torch.Tensor]:
    return {name: dec.logits.softmax(-1) for name, dec in supernet.decisions.items()}


def test_the_decisions_are_named_in_order() -> None:
    decisions = make().decisions
    assert list(decisions) == [
        "cell.0", "cell.1", "length", "layer.0", "layer.1", "layer.2", "head",
    ]  # fmt: skip
    assert decisions["cell.0"].options == DEFAULT_OPERATIONS
    assert decisions["length"].options == ("3", "5", "8")
    assert decisions["layer.1"].options == ("on", "off")
    assert decisions["head"].options == ("full", "low-rank")


def test_one_option_is_no_decision() -> None:
    supernet = make(length=4, layer_gates=False, head="full", operations=("linear",))
    assert supernet.decisions == {}
    assert supernet.architecture_parameters() == []
    assert supernet({}).tensor.shape == (3, 2, 2, 4, 4)
    with pytest.raises(ValueError, match="two or more"):
        Decision("head", ("full",))


@pytest.mark.parametrize("weights", ["uniform", "one-hot", "soft"])
def test_a_fresh_prefix_is_exactly_its_start(weights: str) -> None:
    supernet = make()
    given_weights = {
        "uniform": supernet.uniform_weights(),
        "one-hot": supernet.one_hot(supernet.space.sample(torch.Generator().manual_seed(2))),
        "soft": soft(supernet),
    }[weights]
    prefix = supernet(given_weights)
    keys = start_for().keys[:, :, None].expand(-1, -1, prefix.length, -1)
    assert torch.equal(prefix.tensor[:, 0], keys)
    assert torch.equal(prefix.tensor[:, 1], torch.zeros_like(keys))


def test_larger_options_start_ahead_by_the_lead() -> None:
    torch.manual_seed(0)
    space = PrefixSettings(length=(3, 5, 8), width=12, head=("low-rank", "full")).space(SHAPE)
    logits = {
        name: decision.logits.tolist()
        for name, decision in PrefixSupernet(space, SHAPE, start_for(), 2.0).decisions.items()
    }
    assert logits["layer.0"] == logits["layer.2"] == [2.0, 0.0]
    assert logits["length"] == pytest.approx([0.0, 0.8, 2.0])
    assert logits["head"] == [0.0, 2.0]
    assert not any(logits["cell.0"])
    assert not any(value for d in make().decisions.values() for value in d.logits.tolist())


def test_parameters_split_into_architecture_and_weights() -> None:
    supernet = make()
    architecture, weights = supernet.architecture_parameters(), supernet.weight_parameters()
    assert len(architecture) == 7
    ids = [id(parameter) for parameter in architecture + weights]
    assert sorted(ids) == sorted(id(parameter) for parameter in supernet.parameters())


def test_everything_learns_after_the_first_steps() -> None:
    supernet = make()
    target = torch.randn(3, 2, 2, 8, 4)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        (supernet(soft(supernet)).tensor - target).square().mean().backward()
        optimizer.step()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def choices_strategy(space: SearchSpace) -> st.SearchStrategy[dict[str, str]]:
    options = {name: st.sampled_from(values) for name, values in space.decisions().items()}
    return st.fixed_dictionaries(options).filter(
        lambda choices: any(choices[f"layer.{i}"] == "on" for i in range(space.layers))
    )


STIRRED = stir(make())


@settings(max_examples=60, deadline=None)
@given(choices=choices_strategy(STIRRED.space))
def test_one_hot_equals_the_discretised_network(choices: dict[str, str]) -> None:
    network = STIRRED.discretise(choices)
    expected = network()
    prefix = STIRRED(STIRRED.one_hot(choices))
    assert prefix.active == expected.active
    assert prefix.active == tuple(choices[f"layer.{i}"] == "on" for i in range(3))
    assert prefix.length == int(choices["length"])
    assert torch.allclose(prefix.tensor, expected.tensor, atol=1e-6)
    base = STIRRED.frame.base.expand_as(expected.tensor)
    for layer, on in enumerate(expected.active):
        assert torch.equal(expected.tensor[layer], base[layer]) != on


@settings(max_examples=40, deadline=None)
@given(choices=choices_strategy(STIRRED.space))
def test_one_hot_without_pruning_agrees_on_what_remains(choices: dict[str, str]) -> None:
    """The soft path ends where the discretised network is: presence and gates do the cutting."""
    weights = {name: w.requires_grad_() for name, w in STIRRED.one_hot(choices).items()}
    prefix = STIRRED(weights)
    expected = STIRRED.discretise(choices)()
    assert prefix.length == 8
    assert prefix.active == (True, True, True)
    length = expected.length
    assert torch.allclose(prefix.tensor[:, :, :, :length], expected.tensor, atol=1e-5)
    base = STIRRED.frame.base.expand_as(prefix.tensor)
    assert torch.equal(prefix.tensor[:, :, :, length:], base[:, :, :, length:])
    for layer, on in enumerate(expected.active):
        assert on or torch.equal(prefix.tensor[layer], base[layer])
    prefix.tensor.square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in weights.values())


def test_discretising_copies() -> None:
    supernet = stir(make())
    choices = supernet.space.sample(torch.Generator().manual_seed(0))
    network = supernet.discretise(choices)
    before = supernet(supernet.one_hot(choices)).tensor.clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert torch.equal(supernet(supernet.one_hot(choices)).tensor, before)


def test_pruning_needs_weights_without_gradient() -> None:
    supernet = stir(make())
    one_hot = supernet.one_hot(
        {"cell.0": SKIP, "cell.1": "conv", "length": "3", "layer.0": "off",
         "layer.1": "on", "layer.2": "on", "head": "full"}
    )  # fmt: skip
    assert supernet(one_hot).length == 3
    assert supernet(one_hot, prune=False).length == 8
    assert supernet(supernet.uniform_weights()).length == 8
    assert supernet(soft(supernet)).active == (True, True, True)


def test_weights_scale_gates_and_presence() -> None:
    supernet = stir(make(head="full"))
    weights = supernet.uniform_weights()
    base = supernet.frame.base

    def correction(**changed: list[float]) -> torch.Tensor:
        named = {name.replace("_", "."): torch.tensor(value) for name, value in changed.items()}
        prefix: torch.Tensor = supernet(weights | named).tensor
        return prefix - base

    half, whole = correction(layer_1=[0.5, 0.5]), correction(layer_1=[1.0, 0.0])
    assert torch.allclose(whole[1], 2 * half[1], atol=1e-6)
    assert torch.allclose(whole[0], half[0])
    cells = {"cell_0": [0.0] * 8 + [1.0], "cell_1": [0.0] * 8 + [1.0]}  # skip: no mixing
    mixed = correction(length=[0.5, 0.3, 0.2], **cells)
    full = correction(length=[0.0, 0.0, 1.0], **cells)
    expected = torch.tensor([1.0] * 3 + [0.5] * 2 + [0.2] * 3)[:, None]
    assert torch.allclose(mixed, full * expected, atol=1e-6)


def test_the_correction_is_bounded_however_large_the_weights() -> None:
    supernet = stir(make(radius=0.7), amount=1e6)
    for weights in (supernet.uniform_weights(), soft(supernet)):
        norms = (supernet(weights).tensor - supernet.frame.base).norm(dim=-1)
        limit = 0.7 * start_for().radius[:, :, None, None]
        assert (norms <= limit * 1.001).all()
    choices = {name: decision.options[0] for name, decision in supernet.decisions.items()}
    norms = (supernet.discretise(choices)().tensor - supernet.frame.base).norm(dim=-1)
    assert (norms > 0.9 * limit).any()
    assert norms.isfinite().all()


def test_a_radius_of_zero_means_no_correction() -> None:
    supernet = make()
    supernet.frame.radius.zero_()
    supernet(soft(supernet)).tensor.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in supernet.parameters())
    prefix = stir(supernet)(soft(supernet))
    assert torch.equal(prefix.tensor, supernet.frame.base.expand_as(prefix.tensor))


def test_autocast_keeps_the_prefix_close() -> None:
    supernet = stir(make())
    weights = supernet.uniform_weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = supernet(weights).tensor
    assert torch.allclose(low.float(), supernet(weights).tensor, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell.0": "liner"}, "Did you mean 'linear'"),
        ({"cell.7": "linear"}, "there is no decision 'cell.7'"),
        ({"length": "4"}, "length can't be '4'"),
        ({"layer.0": "off", "layer.1": "off", "layer.2": "off"}, "every layer is off"),
    ],
)
def test_bad_choices_are_named(change: dict[str, str], message: str) -> None:
    supernet = make()
    good = {name: decision.options[0] for name, decision in supernet.decisions.items()}
    with pytest.raises(ConfigError, match=message):
        supernet.discretise(good | change)
    with pytest.raises(ConfigError, match="no choice for head"):
        supernet.one_hot({name: option for name, option in good.items() if name != "head"})


def test_bad_weights_are_named() -> None:
    supernet = make()
    with pytest.raises(ValueError, match="'head' needs weights of shape"):
        supernet({k: v for k, v in supernet.uniform_weights().items() if k != "head"})
    with pytest.raises(ValueError, match="'length' needs weights"):
        supernet(supernet.uniform_weights() | {"length": torch.ones(2)})


def test_a_start_of_another_model_is_refused() -> None:
    other = PrefixShape(3, 2, 8)
    with pytest.raises(ValueError, match="does not fit a prefix"):
        PrefixSupernet(PrefixSettings().space(SHAPE), SHAPE, start_for(other))
    with pytest.raises(ValueError, match="does not fit"):
        PrefixSupernet(PrefixSettings().space(PrefixShape(9, 2, 4)), SHAPE, start_for())


def test_state_survives_saving() -> None:
    supernet = stir(make())
    other = make()
    other.load_state_dict(supernet.state_dict())
    weights = supernet.uniform_weights()
    assert torch.equal(supernet(weights).tensor, other(weights).tensor)
