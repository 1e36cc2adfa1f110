"""Where a prefix starts, whatever makes it, and positions dropped in training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import Prefix, PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.supernet import PrefixSupernet

SHAPE = PrefixShape(layers=3, kv_heads=2, head_dim=4)


def quiet() -> PrefixStart:
    generator = torch.Generator().manual_seed(0)
    return PrefixStart(torch.randn(3, 2, 4, generator=generator), torch.ones(3, 2))


def rows(length: int = 6) -> Tensor:
    return torch.randn(3, 2, 2, length, 4, generator=torch.Generator().manual_seed(1))


def supernet(start: PrefixStart) -> PrefixSupernet:
    torch.manual_seed(0)
    space = PrefixSettings(length=(2, 5), width=8, cells=1).space(SHAPE)
    made = PrefixSupernet(space, SHAPE, start)
    with torch.no_grad():
        for parameter in made.weight_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def choices(length: str, **layers: str) -> dict[str, str]:
    gates = {f"layer.{layer}": layers.get(f"layer{layer}", "on") for layer in range(3)}
    return {"cell.0": "linear", "length": length, **gates}


def test_a_fresh_network_yields_the_rows_it_starts_at() -> None:
    genotype = Genotype.fixed_mlp(SHAPE, length=5, width=8)
    made = PrefixNetwork(genotype, SHAPE, quiet().at(rows()))
    torch.testing.assert_close(made().tensor, rows()[..., :5, :])
    drawn = quiet().at(rows(5))
    assert 0.8 < PrefixNetwork(genotype, SHAPE, drawn)().tensor.std() < 1.2
    zero = PrefixNetwork(genotype, SHAPE, replace(quiet(), keys=torch.zeros(3, 2, 4)))
    assert not zero().tensor.any()


@pytest.mark.parametrize("chosen", [choices("2"), choices("5", layer1="off")])
def test_the_discretised_network_keeps_the_supernets_rows(chosen: dict[str, str]) -> None:
    made = supernet(quiet().at(rows()))
    network = made.discretise(chosen)
    soft, hard = made(made.one_hot(chosen)), network()
    assert soft.active == hard.active
    for layer in (index for index, on in enumerate(soft.active) if on):
        torch.testing.assert_close(soft.tensor[layer], hard.tensor[layer])
    fresh = PrefixNetwork(network.genotype, SHAPE, quiet().at(rows(network.genotype.length)))
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh().tensor, hard.tensor)


def test_rows_fade_to_quiet_keys_with_their_layer_and_position() -> None:
    made = supernet(quiet().at(rows()))
    weights = made.one_hot(choices("2", layer1="off"))
    whole = made(weights, prune=False).tensor
    keys = quiet().keys[:, :, None]
    torch.testing.assert_close(whole[:, 0, :, 2:], keys.expand(-1, -1, 3, -1))
    torch.testing.assert_close(whole[1, 0], keys[1].expand(-1, 5, -1))
    assert not whole[:, 1, :, 2:].any()


def loud() -> PrefixStart:
    start = quiet()
    return replace(start, keys=start.keys / 4, silent=2 * start.keys)


def test_a_loud_start_is_where_a_network_starts_and_silence_where_its_layers_go_out() -> None:
    genotype = Genotype.fixed_mlp(SHAPE, length=5, width=8)
    start = PrefixNetwork(genotype, SHAPE, loud())().tensor
    torch.testing.assert_close(start[:, 0], (quiet().keys / 4)[:, :, None].expand(-1, -1, 5, -1))
    assert not start[:, 1].any()

    made = supernet(loud())
    weights = made.one_hot(choices("2", layer1="off"))
    whole = made(weights, prune=False).tensor
    silence = 2 * quiet().keys[:, :, None]
    torch.testing.assert_close(whole[:, 0, :, 2:], silence.expand(-1, -1, 3, -1))
    torch.testing.assert_close(whole[1, 0], silence[1].expand(-1, 5, -1))
    half = {**weights, "layer.1": torch.tensor([0.5, 0.5])}
    on = made(made.one_hot(choices("2")), prune=False).tensor[1, :, :, 0]
    torch.testing.assert_close(
        made(half, prune=False).tensor[1, :, :, 0], (on + whole[1, :, :, 0]) / 2
    )


def test_the_discretised_network_has_the_loud_start() -> None:
    made = supernet(loud())
    chosen = choices("5", layer1="off")
    network = made.discretise(chosen)
    torch.testing.assert_close(network().tensor[::2], made(made.one_hot(chosen)).tensor[::2])
    fresh = PrefixNetwork(network.genotype, SHAPE, loud())
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh().tensor, network().tensor)


def test_training_moves_away_from_the_rows() -> None:
    made = supernet(quiet().at(rows()))
    made(made.one_hot(choices("5"))).tensor.square().sum().backward()
    assert made.embeddings.grad is not None
    assert made.embeddings.grad.any()


def test_dropped_positions_are_gone_whole_and_never_all() -> None:
    whole = Prefix(torch.arange(6.0).view(1, 1, 1, 6, 1).expand(3, 2, 2, 6, 4), (True,) * 3)
    torch.manual_seed(0)
    seen: Counter[float] = Counter()
    for _ in range(400):
        left = whole.without_some(0.75).tensor
        positions = left[0, 0, 0, :, 0]
        assert (left == positions[None, None, None, :, None]).all()
        assert 1 <= len(positions) <= 6
        seen.update(positions.tolist())
    assert len(seen) == 6
    # A quarter stays, and a little more where all would have gone.
    assert all(400 * 0.2 < count < 400 * 0.4 for count in seen.values())


def test_nothing_is_dropped_at_probability_zero() -> None:
    whole = Prefix(rows(), (True,) * 3)
    assert torch.equal(whole.without_some(0.0).tensor, whole.tensor)
