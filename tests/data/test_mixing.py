"""Shares of the tasks, and which rows an epoch draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from peml.data.mixing import MixingSettings, draw_rows, rows_per_epoch, task_weights
from peml.errors import ConfigError

sizes = st.lists(st.integers(1, 400), min_size=1, max_size=8)


def mixing(**values: object) -> MixingSettings:
    return MixingSettings.model_validate(values)


@given(sizes)
def test_proportional_takes_every_row_once(sizes: list[int]) -> None:
    assert rows_per_epoch(sizes, mixing()) == sizes


def test_square_root_is_temperature_two() -> None:
    # Roots 20 and 10: two to one.
    assert rows_per_epoch([400, 100], mixing(strategy="square-root")) == [333, 167]


def test_annealing_goes_from_proportional_to_the_final_power() -> None:
    annealed = mixing(strategy="annealed", final_power=0.5)
    shares = [rows_per_epoch([400, 100], annealed, progress=p) for p in (0.0, 0.5, 1.0)]
    # 4^0.75 = 2.828 to 1.
    assert shares == [[400, 100], [369, 131], [333, 167]]
    # Published (1902.02671): the power falls by 0.8 over the run.
    assert mixing(strategy="annealed").power(1.0) == pytest.approx(0.2)


def test_weights_multiply_a_tasks_share_and_leave_the_epochs_length() -> None:
    assert rows_per_epoch([100, 100], mixing(), weights=[3.0, 1.0]) == [150, 50]
    assert task_weights({"b": 2.5}, ["a", "b"]) == [1.0, 2.5]


def test_a_weight_for_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no task 'rt'\. Did you mean 'rte'"):
        task_weights({"rt": 2.0}, ["rte", "cola"])


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_has_to_be_positive(weight: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        mixing(weights={"rte": weight})


def test_cap_bounds_a_large_task_and_leaves_small_ones_whole() -> None:
    assert rows_per_epoch([1000, 90, 5], mixing(cap=100)) == [100, 90, 5]


def test_temperature_caps_before_it_takes_the_power() -> None:
    # Capped: 400 and 100, square roots 20 and 10: two to one. The other way round, the roots
    # of 90,000 and 100 would be 300 and 10, and a cap of 400 would change nothing.
    counts = rows_per_epoch([90_000, 100], mixing(strategy="temperature", temperature=2, cap=400))
    assert counts == [333, 167]


def test_temperature_one_is_proportional_and_a_high_one_uniform() -> None:
    sizes = [300, 100, 50]
    assert rows_per_epoch(sizes, mixing(strategy="temperature", temperature=1)) == sizes
    assert rows_per_epoch(sizes, mixing(strategy="temperature", temperature=1e9)) == [150] * 3


@given(sizes, st.sampled_from(["temperature", "uniform"]), st.floats(1, 20))
def test_shares_are_rounded_without_losing_rows(
    sizes: list[int], strategy: str, temperature: float
) -> None:
    counts = rows_per_epoch(sizes, mixing(strategy=strategy, temperature=temperature))
    power = 0 if strategy == "uniform" else 1 / temperature
    shares = np.array(sizes, float) ** power
    exact = shares / shares.sum() * sum(sizes)
    assert min(counts) >= 1
    assert all(
        abs(count - share) < 1 or share < 1 for count, share in zip(counts, exact, strict=True)
    )
    if exact.min() >= 1:
        assert sum(counts) == sum(sizes)


@given(
    size=st.integers(1, 60),
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_no_row_comes_again_before_all_others_came(size: int, counts: list[int], seed: int) -> None:
    epochs = [
        draw_rows(2, size, sum(counts[:epoch]), count, seed) for epoch, count in enumerate(counts)
    ]
    assert [len(epoch) for epoch in epochs] == counts
    drawn = np.concatenate(epochs)
    for start in range(0, len(drawn), size):
        lap = drawn[start : start + size]
        assert len(set(lap.tolist())) == len(lap)
        assert set(lap.tolist()) <= set(range(size))
    assert max(Counter(drawn.tolist()).values()) <= -(-len(drawn) // size)


@pytest.mark.parametrize("strategy", ["proportional", "temperature", "uniform"])
def test_a_task_without_rows_gets_none_and_takes_none_from_others(strategy: str) -> None:
    large, small = rows_per_epoch([40, 10], mixing(strategy=strategy))
    assert rows_per_epoch([0, 40, 0, 10], mixing(strategy=strategy)) == [0, large, 0, small]
    assert rows_per_epoch([0, 0], mixing(strategy=strategy)) == [0, 0]
    assert len(draw_rows(0, 0, first=0, count=0, seed=1)) == 0


def test_draws_depend_on_seed_and_task_and_epoch_only() -> None:
    first = draw_rows(0, 50, 50, 50, seed=3)
    assert (first == draw_rows(0, 50, 50, 50, seed=3)).all()
    for other in (
        draw_rows(1, 50, 50, 50, 3),
        draw_rows(0, 50, 100, 50, 3),
        draw_rows(0, 50, 50, 50, 4),
    ):
        assert (first != other).any()


@pytest.mark.parametrize("wrong", [{"temperature": 0.5}, {"cap": 0}, {"strategy": "size"}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mixing(**wrong)
