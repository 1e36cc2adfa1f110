"""Relaxations against their definitions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.search import RelaxationName, gumbel, relax, softmax

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


def test_gradients_reach_the_logits() -> None:
    names: tuple[RelaxationName, ...] = ("softmax", "gumbel")
    for name in names:
        logits = LOGITS.clone().requires_grad_()
        relax(name, logits, 0.5, seeded(0))[0].backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() > 0
