"""Shares that follow development losses: bounded, fair, and the same after a resume."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from peml.data import BatchStream, MixingSettings
from peml.data.adaptive import AdaptiveSettings, AdaptiveShares
from tests.training.toy import base, stream

losses = st.lists(st.floats(0, 20), min_size=2, max_size=6)


def shares(tasks: int, **settings: Any) -> AdaptiveShares:
    return AdaptiveShares(AdaptiveSettings.model_validate(settings), tasks)


def test_one_update_by_hand() -> None:
    adaptive = shares(2, rate=0.5)
    adaptive.adapt([2.0, 1.0])
    assert adaptive.factors(1) == [1.0, 1.0]
    adaptive.adapt([1.0, 0.9])  # 0.5 and 0.9 left, 0.7 in the mean
    assert adaptive.factors(1) == pytest.approx([math.exp(-0.1), math.exp(0.1)])


@given(losses, st.lists(losses, min_size=1, max_size=8), st.floats(1.1, 8))
def test_factors_stay_in_their_bounds_and_order(
    start: list[float], evaluations: list[list[float]], bound: float
) -> None:
    adaptive = shares(len(start), bound=bound, rate=3.0)
    adaptive.adapt(start)
    for found in evaluations:
        before = adaptive.factors(1)
        now = [found[n % len(found)] for n in range(len(start))]
        adaptive.adapt(now)
        after = adaptive.factors(1)
        assert all(1 / bound <= factor <= bound for factor in after)
        left = [min(n / s, 1.0) if s else 0.0 for n, s in zip(now, start, strict=True)]
        for one in range(len(start)):
            for other in range(len(start)):
                if before[one] >= before[other] and left[one] >= left[other]:
                    assert after[one] >= after[other] - 1e-12


@given(losses)
def test_tasks_that_learn_alike_keep_their_shares(start: list[float]) -> None:
    adaptive = shares(len(start))
    positive = [loss + 0.1 for loss in start]
    adaptive.adapt(positive)
    adaptive.adapt([loss * 0.3 for loss in positive])
    assert adaptive.factors(5) == pytest.approx([1.0] * len(start))


def test_a_task_that_overfits_counts_like_one_that_learnt_nothing() -> None:
    adaptive, other = shares(2), shares(2)
    for made, late in ((adaptive, 1.0), (other, 50.0)):
        made.adapt([1.0, 1.0])
        made.adapt([late, 0.2])
    assert adaptive.factors(1) == other.factors(1)


def test_a_task_without_train_rows_is_left_out() -> None:
    adaptive = shares(3)
    adaptive.adapt([1.0, None, 1.0])
    adaptive.adapt([0.5, None, 1.0])
    assert adaptive.factors(1)[1] == 1.0
    assert adaptive.factors(1)[0] < 1.0 < adaptive.factors(1)[2]


def adaptive_stream() -> BatchStream:
    mixing = {"strategy": "adaptive", "adaptive": {"rate": 2.0}}
    return stream(base(), 20, mixing=mixing, rows=4)


def walk(made: BatchStream, numbers: range) -> list[tuple[list[int], list[int]]]:
    """What batches of these numbers hold; every seventh is followed by an evaluation."""
    drawn = []
    for number in numbers:
        batch = made.next()
        drawn.append((batch.tasks.tolist(), batch.rows.tolist()))
        if number % 7 == 6 and made.adaptive is not None:
            made.adaptive.adapt([1.0, 1.0 / (1 + number)])
    return drawn


def test_an_epoch_is_drawn_by_the_losses_before_it() -> None:
    made = adaptive_stream()
    assert made.adaptive is not None
    first = made.plan(0)
    made.adaptive.adapt([1.0, 1.0])
    made.adaptive.adapt([1.0, 0.1])
    assert made.plan(0) is first
    assert made.counts(0) == [20, 20]
    large, small = made.counts(1)
    assert large + small == 40
    assert large > 28
    for _ in first:
        made.next()
    tasks = [task for _ in made.plan(1) for task in made.next().tasks.tolist()]
    assert [tasks.count(0), tasks.count(1)] == [large, small]


@pytest.mark.parametrize("stopped", range(0, 31, 5))
def test_a_resumed_stream_draws_the_same(stopped: int) -> None:
    whole, first, second = adaptive_stream(), adaptive_stream(), adaptive_stream()
    expected = walk(whole, range(31))
    assert walk(first, range(stopped)) == expected[:stopped]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert walk(second, range(stopped, 31)) == expected[stopped:]
    assert second.state_dict() == whole.state_dict()


def test_other_strategies_have_no_further_state() -> None:
    made = stream(base(), 8)
    assert made.state_dict() == {"epoch": 0, "batch": 0}


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"bound": 1}, {"rows": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MixingSettings.model_validate({"strategy": "adaptive", "adaptive": wrong})
