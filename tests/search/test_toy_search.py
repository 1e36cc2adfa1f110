"""Whole searches on problems whose best architecture is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peml.prefix.operations.registry import SKIP
from peml.prefix.prefix import Prefix, PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.supernet import PrefixSupernet
from peml.search.controller import SearchController
from peml.search.settings import SearchSettings

SHAPE = PrefixShape(layers=2, kv_heads=1, head_dim=8)
LENGTH, WIDTH = 24, 4
"""Far fewer channels than positions: else the embeddings could learn any target by themselves."""


def make_supernet(operations: tuple[str, ...], seed: int) -> PrefixSupernet:
    torch.manual_seed(seed)
    chosen = PrefixSettings(
        length=LENGTH, width=WIDTH, cells=1, operations=operations, layer_gates=False, radius=100.0
    )
    supernet = PrefixSupernet(chosen.space(SHAPE), SHAPE, PrefixStart.zeros(SHAPE))
    supernet.embeddings.requires_grad_(False)
    return supernet


def teach(supernet: PrefixSupernet, operation: str) -> tuple[PrefixSupernet, Tensor]:
    """A supernet with the same embeddings and a known operation, and the prefix it yields."""
    teacher = make_supernet((*supernet.space.operations,), seed=0)
    teacher.embeddings.data.copy_(supernet.embeddings)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in teacher.weight_parameters():
            if parameter is not teacher.embeddings:
                parameter.add_(torch.randn_like(parameter))
    return teacher, teacher(teacher.one_hot({"cell.0": operation})).tensor.detach()


def run(
    supernet: PrefixSupernet, target: Tensor, relaxation: str, steps: int = 150, **options: float
) -> SearchController:
    chosen = SearchSettings.model_validate({"relaxation": relaxation, **options})
    controller = SearchController(supernet, chosen, steps, seed=0)
    groups = [
        {"params": supernet.architecture_parameters(), "lr": 0.05},
        {"params": supernet.weight_parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        optimizer.zero_grad()
        error(supernet(controller.weights(step)), target).backward()
        optimizer.step()
    return controller


def error(prefix: Prefix, target: Tensor) -> Tensor:
    return (prefix.tensor - target).square().mean()


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_finds_an_operation_that_mixes_positions(relaxation: str) -> None:
    """Skip and the position-wise linear layer can't express the target, the convolution can."""
    supernet = make_supernet(("linear", "conv", SKIP), seed=1)
    _, target = teach(supernet, "conv")
    controller = run(supernet, target, relaxation)
    assert controller.choices().choices["cell.0"] == "conv"
    assert controller.choices().guarded == ()


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
@pytest.mark.parametrize("best", [SKIP, "mlp-gelu"])
def test_the_logits_follow_the_loss_both_ways(relaxation: str, best: str) -> None:
    """With weights that stand and fit one option only, the search must find that option."""
    supernet = make_supernet(("mlp-gelu", SKIP), seed=1)
    teacher, target = teach(supernet, best)
    supernet.load_state_dict(teacher.state_dict())
    for parameter in supernet.weight_parameters():
        parameter.requires_grad_(False)
    options = {"warmup": 0.0, "cooldown": 0.0, "max_skips": 1}
    controller = run(supernet, target, relaxation, steps=100, **options)
    assert controller.snapshot(99)["cell.0"][best] > 0.9
    assert controller.choices().choices["cell.0"] == best


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_the_cooldown_closes_the_gap_of_discretisation(relaxation: str) -> None:
    """A search that stops without one leaves a blend that breaks; with one, nothing changes."""
    gaps = {}
    for cooldown in (0.0, 0.2):
        supernet = make_supernet(("linear", "conv", SKIP), seed=1)
        _, target = teach(supernet, "conv")
        controller = run(supernet, target, relaxation, steps=120, cooldown=cooldown)
        with torch.no_grad():
            soft = supernet(controller.evaluation_weights(119))
            hard = supernet.discretise(controller.choices().choices)()
        gaps[cooldown] = error(hard, target).item() / error(soft, target).item()
    assert gaps[0.2] == pytest.approx(1, abs=1e-5)
    if relaxation == "softmax":
        assert gaps[0.0] > 1.5
