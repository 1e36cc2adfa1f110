"""Genotypes on models of other shapes, and side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peml.errors import ConfigError
from peml.prefix.adaptation import adapt, differences, load_for
from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.operations.registry import list_operations
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape

_WORDS = st.text('ab_.\u00e9"', max_size=5)
SHAPES = st.builds(PrefixShape, st.integers(1, 20), st.integers(1, 4), st.integers(1, 8))


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    shape = draw(SHAPES)
    gates = draw(st.integers(1, 2**shape.layers - 1))
    return Genotype(
        cells=tuple(draw(st.lists(st.sampled_from(list_operations()), min_size=1, max_size=4))),
        length=draw(st.integers(1, 9)),
        layers=tuple(bool(gates >> layer & 1) for layer in range(shape.layers)),
        head=draw(st.sampled_from(["full", "low-rank"])),
        head_rank=draw(st.integers(1, 8)),
        width=draw(st.integers(1, 16)),
        radius=draw(st.floats(0.1, 10)),
        shape=shape,
        found_by=draw(st.dictionaries(_WORDS, st.integers() | _WORDS)),
    )


@given(genotypes())
def test_any_genotype_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, made: Genotype
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    made.save(path)
    assert Genotype.load(path) == made
    assert differences(Genotype.load(path), made) == []


@given(genotypes(), SHAPES)
def test_an_adapted_genotype_fits_and_says_what_changed(made: Genotype, shape: PrefixShape) -> None:
    fitted, changes = adapt(made, shape)
    fitted.check_fits(shape)
    assert any(fitted.layers)
    assert (fitted.cells, fitted.length, fitted.head, fitted.width) == (
        made.cells,
        made.length,
        made.head,
        made.width,
    )
    assert bool(changes) == (shape != made.shape)
    changed = {name for name, _, _ in differences(made, fitted)}
    assert ("kv_heads" in changed) == any(line.startswith("kv_heads") for line in changes)
    assert ("head_dim" in changed) == any(line.startswith("head_dim") for line in changes)
    if not changes:
        assert fitted == made


def with_gates(*layers: int) -> Genotype:
    shape = PrefixShape(len(layers), 2, 4)
    return Genotype.fixed_mlp(shape, length=3, width=8).model_copy(
        update={"layers": tuple(map(bool, layers))}
    )


@pytest.mark.parametrize(
    ("gates", "count", "wanted"),
    [
        ((1, 0, 0, 1), 8, (1, 1, 0, 0, 0, 0, 1, 1)),
        ((1, 1, 0, 0, 1, 1), 3, (1, 0, 1)),
        ((0, 1, 0, 0), 2, (1, 0)),
        ((0, 0, 1, 0, 0, 0), 2, (1, 0)),
        ((1,), 3, (1, 1, 1)),
        ((0, 1), 1, (1,)),
    ],
)
def test_layers_keep_their_relative_depth(
    gates: tuple[int, ...], count: int, wanted: tuple[int, ...]
) -> None:
    fitted, (change,) = adapt(with_gates(*gates), PrefixShape(count, 2, 4))
    assert fitted.layers == tuple(map(bool, wanted))
    assert f"{len(gates)} -> {count}" in change
    assert fitted.found_by["adapted"] == [change]


def test_an_adapted_network_is_built_and_learns() -> None:
    shape = PrefixShape(3, 1, 8)
    fitted, _ = adapt(with_gates(1, 0, 1, 1), shape)
    network = PrefixNetwork(fitted, shape, PrefixStart.zeros(shape))
    network().tensor.sum().backward()
    assert network.head.last.weight.grad is not None
    assert network().tensor.shape == (3, 2, 1, 3, 8)


def test_another_shape_is_refused_or_adapted_with_a_warning(tmp_path: Path) -> None:
    path, shape = tmp_path / "made.json", PrefixShape(4, 2, 4)
    with_gates(1, 0).save(path)
    with pytest.raises(ConfigError, match="2 layer gates") as refused:
        load_for(path, shape)
    assert "method.search.adapt=true" in refused.value.action
    with pytest.warns(UserWarning, match=r"made\.json was adapted: layers: 2 -> 4"):
        assert load_for(path, shape, adapted=True).shape == shape
    assert load_for(path, PrefixShape(2, 2, 4), adapted=True) == Genotype.load(path)


def test_differences_name_field_and_both_values() -> None:
    first = with_gates(1, 0)
    update = {"cells": ("conv", "skip"), "head": "low-rank", "layers": (True, True)}
    assert differences(first, first.model_copy(update=update)) == [
        ("cell.0", "mlp-tanh", "conv"),
        ("layer.1", "off", "on"),
        ("head", "full", "low-rank, rank 16"),
        ("cell.1", "none", "skip"),
    ]


def test_how_it_was_found_is_no_difference() -> None:
    first = with_gates(1, 0)
    assert differences(first, first.model_copy(update={"found_by": {"by": "hand"}})) == []


def test_the_fixed_network_is_as_large_as_the_settings_allow() -> None:
    settings = PrefixSettings(length=(4, 2), width=8, head=("low-rank", "full"), head_rank=3)
    made = settings.fixed(PrefixShape(6, 2, 4))
    assert (made.cells, made.length, made.width) == (("mlp-tanh",), 4, 8)
    assert (made.head, made.head_rank, all(made.layers)) == ("low-rank", 3, True)
