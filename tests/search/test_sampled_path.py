"""The mode that runs one operation per cell: what it computes, and the gradients it gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from peml.prefix.operations.registry import SKIP
from peml.prefix.prefix import PrefixStart
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.prefix.supernet import PrefixSupernet
from peml.search.controller import SearchController
from peml.search.relaxation import softmax
from peml.search.settings import SearchSettings

SHAPE = PrefixShape(layers=3, kv_heads=1, head_dim=4)
OPERATIONS = ("linear", "conv", "mlp-gelu", SKIP)


def make_supernet(**options: object) -> PrefixSupernet:
    values: dict[str, Any] = {"length": (2, 4), "width": 4, "cells": 3, "operations": OPERATIONS}
    torch.manual_seed(0)
    chosen = PrefixSettings.model_validate(values | options)
    supernet = PrefixSupernet(chosen.space(SHAPE), SHAPE, PrefixStart.zeros(SHAPE))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return supernet


def controller(supernet: PrefixSupernet, **options: object) -> SearchController:
    chosen = SearchSettings.model_validate({"relaxation": "sampled-path"} | options)
    return SearchController(supernet, chosen, 40, seed=0)


def test_a_step_runs_exactly_one_operation_of_each_cell() -> None:
    supernet = make_supernet()
    searched = controller(supernet)
    calls: Counter[int] = Counter()
    seen: set[tuple[int, str]] = set()
    cells: Any = supernet.cells
    for cell, mixed in enumerate(cells):
        for name, operation in mixed.operations.items():

            def count(*_: Any, cell: int = cell, name: str = name) -> None:
                calls[cell] += 1
                seen.add((cell, name))

            operation.register_forward_hook(count)
    for step in range(40):  # warm-up, middle and cool-down
        calls.clear()
        supernet(searched.weights(step), prune=True)
        assert calls == {0: 1, 1: 1, 2: 1}
    assert len(seen) == 12


def test_a_step_is_one_network_of_the_space() -> None:
    supernet = make_supernet()
    searched = controller(supernet)
    for step in range(12, 20):
        weights = searched.weights(step)
        options = {n: d.options for n, d in supernet.decisions.items()}
        choices = {name: options[name][int(row.argmax())] for name, row in weights.items()}
        prefix = supernet(weights, prune=True)
        if any(prefix.active):
            whole = supernet.discretise(choices)()
            assert prefix.active == whole.active
            on = list(prefix.active)
            assert torch.allclose(prefix.tensor[on], whole.tensor[on], atol=1e-6)


def test_gradients_over_all_draws_are_those_of_the_whole_mixture() -> None:
    """Of a loss that is linear in a cell's output, where the whole mixture is exact."""
    supernet = make_supernet(cells=1, length=4, layer_gates=False)
    logits = supernet.decisions["cell.0"].logits
    mixed: Any = supernet.cells[0]
    presence = torch.ones(4)
    direction = torch.randn(4, 4)

    def gradient(weights: torch.Tensor, used: list[int] | None = None) -> torch.Tensor:
        output = mixed(supernet.embeddings, presence, weights, used)
        return torch.autograd.grad((output * direction).sum(), logits)[0]

    wanted = gradient(softmax(logits, 0.7))
    found = torch.zeros(4)
    for option, share in enumerate(softmax(logits, 0.7).tolist()):
        probability = softmax(logits, 0.7)
        weights = torch.eye(4)[option] * (probability[option] / probability[option].detach())
        found += share * gradient(weights, [option])
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_cooldown_draws_the_chosen_network_ever_more_often() -> None:
    supernet = make_supernet()
    searched = controller(supernet, cooldown=0.5, warmup=0.1)
    chosen = supernet.one_hot(searched.choices().choices)

    def is_chosen(step: int) -> bool:
        weights = searched.weights(step)
        return all(torch.equal(weights[name], chosen[name]) for name in chosen)

    early = sum(is_chosen(step) for step in range(20, 28))
    late = sum(is_chosen(step) for step in range(32, 40))
    assert early < late
    assert is_chosen(39)
    assert searched.weights(25)["cell.0"].max() == 1
