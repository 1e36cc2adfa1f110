"""The flat prefix: where it starts, how far it goes, and that its positions differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from peml.prefix.flat import FlatPrefix
from peml.prefix.prefix import PrefixStart
from peml.prefix.shape import PrefixShape
from peml.prefix.size import count_flat

SHAPE = PrefixShape(layers=3, kv_heads=2, head_dim=8)
LENGTH = 5


def start(kind: str = "quiet") -> PrefixStart:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(SHAPE.layers, SHAPE.kv_heads, SHAPE.head_dim, generator=generator)
    made = PrefixStart(keys, torch.tensor([[4.0, 1.0], [6.0, 2.0], [5.0, 3.0]]))
    return {
        "quiet": made,
        "zero": replace(made, keys=torch.zeros_like(keys)),
        "random": made.at(torch.randn(3, 2, 2, LENGTH, 8, generator=generator)),
        "text": made.at(torch.randn(3, 2, 2, LENGTH + 2, 8, generator=generator)),
    }[kind]


def flat(kind: str = "quiet", *, radius: float | None = 0.5, seed: int = 0) -> FlatPrefix:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FlatPrefix(start(kind), LENGTH, radius=radius)


def rows(made: FlatPrefix) -> tuple[Tensor, Tensor]:
    tensor = made().tensor.detach()
    return tensor[:, 0], tensor[:, 1]


def test_quiet_keys_are_the_measured_ones_at_every_position() -> None:
    keys, _ = rows(flat("quiet"))
    assert torch.equal(keys, start().keys[:, :, None, :].expand_as(keys))


def test_zero_keys_are_zero_and_random_ones_are_not() -> None:
    assert not rows(flat("zero"))[0].any()
    normal = torch.cat([part.flatten() for part in rows(flat("random"))])
    assert normal.mean().abs() < 0.1
    assert 0.9 < normal.std() < 1.1


@pytest.mark.parametrize("kind", ["quiet", "zero"])
def test_values_start_small_beside_the_models_own(kind: str) -> None:
    _, values = rows(flat(kind))
    norms = values.norm(dim=-1).mean(dim=(1, 2)) / start().radius[:, 1]
    assert (norms < 0.2).all()
    assert (norms > 0.02).all()


@pytest.mark.parametrize("kind", ["quiet", "zero", "random", "text"])
def test_every_position_learns_something_of_its_own(kind: str) -> None:
    made = flat(kind)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    queries = torch.randn(7, SHAPE.head_dim, generator=torch.Generator().manual_seed(0))
    before = made.correction.detach().clone()
    for _ in range(3):
        keys, values = made().tensor.unbind(1)
        attention = torch.einsum("qd,lhpd->lhqp", queries, keys).softmax(-1)
        output = torch.einsum("lhqp,lhpd->lhqd", attention, values)
        loss = (output - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (made.correction.detach() - before).abs()
    assert (moved.sum(-1) > 0).all()
    keys, values = rows(made)
    for part in (keys, values):
        others, first = part[:, :, 1:], part[:, :, :1]
        apart = (others - first).square().sum((0, 1, 3))
        assert (apart > 1e-6).all(), "two positions are the same"


def test_a_bounded_correction_stays_within_its_radius() -> None:
    made = flat(radius=0.5)
    at_first = made().tensor.detach()
    with torch.no_grad():
        made.correction.fill_(1e6)
    moved = (made().tensor.detach() - at_first).norm(dim=-1)
    limit = 0.5 * start().radius[:, :, None, None].expand_as(moved)
    torch.testing.assert_close(moved, limit, rtol=1e-3, atol=1e-3)


def test_without_a_bound_rows_are_learnt_as_they_are() -> None:
    made = flat(radius=None)
    at_first = made().tensor.detach()
    with torch.no_grad():
        made.correction.fill_(50.0)
    torch.testing.assert_close(made().tensor.detach(), at_first + 50.0)
    assert "limit" not in made.state_dict()


def test_its_state_carries_the_start() -> None:
    made, other = flat(seed=0), flat("random", seed=1)
    with torch.no_grad():
        made.correction.normal_()
    assert not torch.equal(other().tensor, made().tensor)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other().tensor, made().tensor)


def test_every_layer_is_on_and_the_shape_is_the_models() -> None:
    prefix = flat()()
    assert prefix.tensor.shape == (3, 2, 2, LENGTH, 8)
    assert prefix.active == (True, True, True)
    assert flat().shape == SHAPE


def test_it_has_as_many_parameters_as_the_closed_form_says() -> None:
    assert sum(p.numel() for p in flat().parameters()) == count_flat(SHAPE, LENGTH)


def test_all_layers_are_one_step_of_the_backward_pass() -> None:
    """An index per layer would give each layer a gradient of the whole prefix's size."""
    prefix = flat()()
    pairs = [prefix.layer(index) for index in range(SHAPE.layers)]
    steps = {each.grad_fn for pair in pairs if pair is not None for each in pair}
    assert len(steps) == 1
