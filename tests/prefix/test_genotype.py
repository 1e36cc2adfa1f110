"""Genotypes as files, and the networks they describe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from peml.errors import ConfigError
from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.space import SearchSpace

SHAPE = PrefixShape(layers=4, kv_heads=2, head_dim=8)


def example() -> Genotype:
    return Genotype(
        cells=("conv", "skip", "gated-mlp"),
        length=6,
        layers=(True, False, True, True),
        head="low-rank",
        head_rank=5,
        width=12,
        radius=0.8,
        shape=SHAPE,
        found_by={"relaxation": "gumbel", "seed": 3, "guarded": ["cell.0"]},
    )


def count(network: PrefixNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    example().save(path)
    assert Genotype.load(path) == example()
    assert list(json.loads(path.read_text())) == sorted(json.loads(path.read_text()))
    assert path.read_text().count("\n") > 10


def edited(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(example().model_dump(mode="json") | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is not readable"),
        ({"cells": ["conf"]}, "Did you mean 'conv'"),
        ({"cells": []}, "cells"),
        ({"layers": [False] * 4}, "at least one layer"),
        ({"length": 0}, "length"),
        ({"head": "big"}, "head"),
        ({"surprise": 1}, "surprise"),
        ({"shape": {"layers": 4, "kv_heads": 0, "head_dim": 8}}, "at least 1"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        Genotype.load(path)
    assert str(path) in caught.value.problem


def test_all_bad_fields_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Genotype.load(edited(tmp_path, length=0, cells=["conf"], width="wide"))
    assert all(field in str(caught.value) for field in ("length", "cells", "width"))


@pytest.mark.parametrize("text", ["{", "[]", "null", "\xff"])
def test_files_that_are_no_genotype(tmp_path: Path, text: str) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"genotype\.json"):
        Genotype.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        Genotype.load(tmp_path / "none.json")


def test_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="made for PrefixShape"):
        PrefixNetwork(example(), PrefixShape(4, 2, 16), PrefixStart.zeros(PrefixShape(4, 2, 16)))
    short = example().model_copy(update={"layers": (True, True)})
    with pytest.raises(ConfigError, match="2 layer gates"):
        PrefixNetwork(short, SHAPE, PrefixStart.zeros(SHAPE))


def test_a_fresh_network_yields_its_start_and_then_learns() -> None:
    torch.manual_seed(0)
    start = PrefixStart(torch.randn(4, 2, 8), torch.ones(4, 2))
    network = PrefixNetwork(example(), SHAPE, start)
    prefix = network()
    assert torch.equal(prefix.tensor[:, 0], start.keys[:, :, None].expand(-1, -1, 6, -1))
    assert not prefix.tensor[:, 1].any()
    assert prefix.active == (True, False, True, True)
    target = torch.randn_like(prefix.tensor)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = (network().tensor - target)[list(example().active_layers)].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert torch.equal(network().tensor[1, 0], start.keys[1][:, None].expand(-1, 6, -1))


def test_the_fixed_network_counts_by_the_closed_form() -> None:
    genotype = Genotype.fixed_mlp(SHAPE, length=10, width=12)
    network = PrefixNetwork(genotype, SHAPE, PrefixStart.zeros(SHAPE))
    width, outputs = 12, 4 * 2 * 2 * 8
    norms = 2 * 2 * width
    mlp = 4 * width * width + 3 * width
    assert count(network) == 10 * width + norms + mlp + width * outputs


def test_a_low_rank_head_and_gates_count_by_the_closed_form() -> None:
    network = PrefixNetwork(example(), SHAPE, PrefixStart.zeros(SHAPE))
    width, outputs = 12, 3 * 2 * 2 * 8  # three of four layers
    conv = 4 * width + width * width + width
    gated = 3 * width * 16 + 2 * 16 + width
    norms = 3 * 2 * width  # two cells and the head; skip has none
    assert count(network) == 6 * width + norms + conv + gated + 5 * (width + outputs)


def test_random_points_of_a_space_are_valid_and_reproducible() -> None:
    space = PrefixSettings(length=(2, 4), head=("full", "low-rank")).space(SHAPE)

    def draw(seed: int) -> list[dict[str, str]]:
        generator = torch.Generator().manual_seed(seed)
        return [space.sample(generator) for _ in range(50)]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    for choices in draw(0):
        genotype = Genotype.from_choices(space, SHAPE, choices)
        assert genotype.choices() == space.complete(choices)
    assert {choices["length"] for choices in draw(0)} == {"2", "4"}


def test_a_random_point_keeps_a_layer() -> None:
    space = PrefixSettings().space(PrefixShape(1, 1, 2))
    generator = torch.Generator().manual_seed(0)
    assert all(space.sample(generator)["layer.0"] == "on" for _ in range(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ("liner",)}, "Did you mean 'linear'"),
        ({"operations": ("linear", "linear")}, "twice"),
        ({"operations": ()}, "operations"),
        ({"length": (4, 4)}, "different lengths"),
        ({"length": ()}, "different lengths"),
        ({"length": 0}, "at least 1"),
        ({"head": ("full", "full")}, "one or both"),
        ({"head": "wide"}, "head"),
        ({"radius": 0}, "radius"),
        ({"lenght": 3}, "lenght"),
    ],
)
def test_bad_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PrefixSettings.model_validate(options)


def test_settings_read_lists_and_single_values() -> None:
    read = PrefixSettings.model_validate({"length": [16, 4], "head": ["low-rank"]})
    assert read.space(SHAPE).lengths == (4, 16)
    single = PrefixSettings.model_validate({"length": 4, "layer_gates": False}).space(SHAPE)
    assert isinstance(single, SearchSpace)
    assert list(single.decisions()) == ["cell.0", "cell.1", "cell.2"]
    assert PrefixSettings.model_validate(read.model_dump(mode="json")) == read
