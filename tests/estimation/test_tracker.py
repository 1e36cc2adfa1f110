"""Bytes and FLOPs of what runs on tensors without values."""

from __future__ import annotations

import gc
import resource

import torch
from torch import nn

from peml.estimation.tracker import Tracker, without_values


def test_bytes_are_counted_while_they_are_held() -> None:
    with without_values() as tracker:
        a = torch.empty(1000, 100)
        assert tracker.live == 400_000
        view = a[:10].t()
        assert tracker.live == 400_000  # the same memory
        b = a + 1
        assert (tracker.live, tracker.peak) == (800_000, 800_000)
        del b
        gc.collect()
        assert (tracker.live, tracker.peak) == (400_000, 800_000)
        tracker.restart()
        assert tracker.peak == 400_000
        del a
        assert tracker.live == 400_000  # the view holds it
        del view
        gc.collect()
        assert tracker.live == 0


def test_flops_of_a_layer_are_those_of_its_products() -> None:
    with without_values() as tracker:
        layer = nn.Linear(30, 50, bias=False)
        x = torch.empty(8, 30, requires_grad=True)
        tracker.restart()
        y = layer(x)
        assert tracker.flops == 2 * 8 * 30 * 50
        y.sum().backward()
        assert tracker.flops == 3 * 2 * 8 * 30 * 50  # and both gradients


def test_flops_of_attention_are_counted() -> None:
    with without_values() as tracker:
        q, k, v = (torch.empty(2, 4, 16, 8, requires_grad=True) for _ in range(3))
        tracker.restart()
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        product = 2 * 2 * 4 * 16 * 16 * 8
        assert tracker.flops == 2 * product
        y.sum().backward()
        assert tracker.flops == 7 * product  # the logits once more, and four gradients


def test_logits_are_told_apart() -> None:
    with without_values() as tracker:
        tracker.vocabulary = 64
        hidden = torch.empty(5, 16)
        logits = torch.empty(5, 64)
        assert (tracker.peak, tracker.peak_logits) == (5 * 80 * 4, 5 * 64 * 4)
        del hidden, logits


def test_nothing_is_allocated() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with without_values() as tracker:
        layers = [nn.Linear(50_000, 50_000) for _ in range(4)]
        layers[0](torch.empty(1, 50_000))
        assert tracker.live > 40 * 10**9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # KiB


def test_questions_about_values_are_answered() -> None:
    with without_values():
        x = torch.empty(3, 4)
        assert bool((x > 0).all())
        assert x.sum().item() == 1.0
        assert x[x > 0].shape == (12,)
        assert (x > 0).nonzero().shape == (12, 2)
        assert torch.tensor([7]).item() == 7  # known without computing


def test_the_same_steps_with_values_take_the_same() -> None:
    def step() -> tuple[int, int]:
        with Tracker() as tracker:
            model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
            x = torch.ones(32, 64)
            tracker.restart()
            model(x).square().mean().backward()
            return tracker.peak, tracker.flops

    with_values = step()
    with without_values():
        assert step() == with_values
