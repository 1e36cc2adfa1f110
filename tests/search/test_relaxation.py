"""Relaxations against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.search.relaxation import RELAXATIONS, gumbel, sampled_path, softmax
from peml.search.settings import RelaxationName

LOGITS = torch.tensor([0.5, -1.0, 1.5, 0.0])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_softmax_sharpens_with_falling_temperature() -> None:
    assert torch.allclose(softmax(LOGITS, 1.0), LOGITS.softmax(-1))
    assert softmax(LOGITS, 0.01)[2] > 0.9999
    assert softmax(LOGITS, 100.0).max() < 0.26


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_gumbel_is_one_hot_in_the_limit(seed: int) -> None:
    sample = gumbel(LOGITS, 1e-4, seeded(seed))
    assert sample.max() > 0.999 or sample.topk(2).values.sum() > 0.999  # a near tie
    assert torch.isfinite(sample).all()


def test_gumbel_draws_with_the_probabilities_of_the_logits() -> None:
    samples = gumbel(LOGITS.expand(20_000, 4), 0.01, seeded(0))
    shares = samples.argmax(-1).bincount(minlength=4) / 20_000
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=0.015)
    assert (samples.amax(-1) > 0.99).float().mean() > 0.97


def test_gumbel_depends_on_its_generator_only() -> None:
    torch.manual_seed(1)
    first = gumbel(LOGITS, 1.0, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(first, gumbel(LOGITS, 1.0, seeded(3)))
    assert not torch.equal(first, gumbel(LOGITS, 1.0, seeded(4)))


@pytest.mark.parametrize("name", RELAXATIONS)
def test_gradients_reach_the_logits(name: RelaxationName) -> None:
    logits = LOGITS.clone().requires_grad_()
    weights = RELAXATIONS[name].relax(logits, 0.5, seeded(0))
    weights[weights.argmax()].backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize("name", [name for name in RELAXATIONS if RELAXATIONS[name].one_path])
def test_one_hot_weights_are_so_to_the_bit(name: RelaxationName) -> None:
    weights = RELAXATIONS[name].relax(LOGITS.expand(1000, 4), 0.3, seeded(0))
    assert torch.equal(weights.sort(-1).values, torch.tensor([0.0, 0, 0, 1]).expand(1000, 4))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_sampled_path_has_the_gradient_of_the_expected_loss(temperature: float) -> None:
    """Over draws, although each draw knows the cost of its own option only."""
    costs = torch.tensor([1.0, -2.0, 0.5, 3.0])
    wanted = LOGITS.clone().requires_grad_()
    (softmax(wanted, temperature) * costs).sum().backward()
    logits = LOGITS.expand(40_000, 4).clone().requires_grad_()
    weights = sampled_path(logits, temperature, seeded(0))
    known = torch.where(weights.detach() > 0, costs, torch.nan)  # the others' are never asked for
    weights[weights > 0].mul(known[weights.detach() > 0]).sum().backward()
    assert logits.grad is not None
    assert wanted.grad is not None
    error = logits.grad.std(0) / 200  # of the mean over so many draws
    assert torch.all((logits.grad.mean(0) - wanted.grad).abs() < 5 * error + 1e-7)


def test_a_sampled_path_is_drawn_with_the_probabilities_of_its_temperature() -> None:
    weights = sampled_path(LOGITS.expand(20_000, 4), 0.5, seeded(0))
    assert torch.allclose(weights.mean(0), softmax(LOGITS, 0.5), atol=0.015)
