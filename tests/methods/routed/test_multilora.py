"""MultiLoRA against the equation of arXiv 2311.11501, and where it starts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from peml.methods.routed.multilora import MultiLoraDelta
from peml.methods.routed.settings import MultiLoraSettings
from tests.methods.routed.reference import D_IN, D_OUT, SCALE, agree, inputs, linear, moved, routing


def build(d_in: int = D_IN, r: int = 2) -> MultiLoraDelta:
    return MultiLoraDelta(
        linear(d_in), routing(), MultiLoraSettings(r=r, alpha=r * SCALE, branches=3)
    )


def slow(p: Mapping[str, Tensor], x: Tensor, task: int) -> Tensor:
    """y = s sum_i c_i * (B_i A_i x)."""
    y = torch.zeros(D_OUT, dtype=x.dtype)
    for down, up, scaling in zip(p["down"], p["up"], p["scaling"], strict=True):
        y = y + scaling * (up.T @ (down @ x))
    return SCALE * y


@pytest.mark.parametrize("shape", [(4, 3), (4,), (2, 3, 2)])
def test_it_is_the_papers_equation(shape: tuple[int, ...]) -> None:
    agree(moved(build()), slow, inputs(*shape), [0] * shape[0])


def test_its_factors_are_its_update() -> None:
    delta, x = moved(build()), inputs(4)
    up, down = delta.factors(0)
    assert (up.shape, down.shape) == ((D_OUT, 6), (6, D_IN))
    torch.testing.assert_close(x @ (up @ down).T, delta(x))


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    delta = build(d_in=400, r=16)
    assert delta.down.abs().max() <= 400**-0.5
    assert delta.down.std().item() == pytest.approx((3 * 400) ** -0.5, rel=0.05)
    assert delta.up.abs().max() <= 16**-0.5  # B's fan-in is the rank
    assert delta.up.std().item() == pytest.approx(48**-0.5, rel=0.1)
    assert not delta.scaling.any()
