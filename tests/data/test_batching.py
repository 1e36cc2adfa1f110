"""Batches: every row in its place, budgets kept, order restored, padding right."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.data import Collator, TaskBatch
from peml.data.batching import BatchStream, evaluation_batches
from peml.data.mixing import draw_rows
from peml.data.planning import plan_batches
from peml.data.rows import Indices
from peml.data.settings import BatchSettings
from peml.errors import CheckpointError
from tests.data.encoded import encoded_split

PAD = 99
examples = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 4)), min_size=1, max_size=80)
budgets = st.builds(
    lambda tokens, rows, pool: settings_of(tokens=tokens, rows=rows, pool=pool),
    st.integers(16, 200),
    st.integers(1, 9),
    st.integers(1, 5),
)
task_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def settings_of(**values: object) -> BatchSettings:
    return BatchSettings.model_validate(values)


def stream(
    sizes: Sequence[int], seed: int = 0, *, epochs: float = 1, step: int = 1, **values: object
) -> BatchStream:
    noise = np.random.default_rng(7)
    splits = [
        encoded_split(noise.integers(2, 12, size).tolist(), mark=1000 * task)
        for task, size in enumerate(sizes)
    ]
    options = {"tokens": 64, "rows": 5, "pool": 3} | values
    made = settings_of(**options)
    return BatchStream(splits, made, Collator(PAD), seed=seed, epochs=epochs, batches_per_step=step)


def test_annealing_spans_the_runs_epochs() -> None:
    mixing = {"strategy": "annealed", "final_power": 0}
    long, short = (stream([90, 30], epochs=epochs, mixing=mixing) for epochs in (2.5, 1))
    assert [long.counts(epoch) for epoch in (0, 2)] == [[90, 30], [60, 60]]
    assert short.counts(0) == [90, 30]


def rows_of(batch: TaskBatch) -> list[tuple[int, int]]:
    """(task, row) of each example, read from the tokens rather than from the labels."""
    return [(int(ids[0]) // 1000, int(ids[0]) % 1000) for ids in batch.input_ids]


@given(examples, budgets, st.booleans())
@settings(max_examples=80, deadline=None)
def test_plan_holds_every_example_once_and_keeps_the_budget(
    examples: list[tuple[int, int]], budget: BatchSettings, shuffled: bool
) -> None:
    lengths, sequences = (np.array(column) for column in zip(*examples, strict=True))
    batches = plan_batches(lengths, sequences, budget.tokens, budget.rows, budget.pool)
    if shuffled:
        batches = batches.shuffled(np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(examples)))
    for batch in batches:
        assert 1 <= len(batch) <= budget.rows
        padded = sequences[batch].sum() * lengths[batch].max()
        assert padded <= budget.tokens or len(batch) == 1


def test_an_overlong_example_stands_alone() -> None:
    lengths = np.array([4, 100, 4, 5])
    batches = plan_batches(lengths, np.ones(4, int), tokens=32, rows=8)
    assert [batch.tolist() for batch in batches] == [[1], [3, 0, 2]]


def test_batches_are_filled_as_far_as_the_budget_goes() -> None:
    batches = plan_batches(np.full(40, 8), np.ones(40, int), tokens=64)
    assert [len(batch) for batch in batches] == [8] * 5


def test_sorting_within_pools_saves_padding() -> None:
    sorted_stream, random_stream = (stream([25, 25], rows=5, pool=pool) for pool in (10, 1))
    assert sorted_stream.padding() < 0.5 * random_stream.padding()
    assert sorted_stream.tokens() == random_stream.tokens()


def test_padding_is_what_the_batches_hold() -> None:
    measured = stream([13, 9])
    batches = [measured.next() for _ in measured.plan(0)]
    held = sum(batch.input_ids.numel() for batch in batches)
    real = sum(batch.tokens for batch in batches)
    assert real == measured.tokens()
    assert measured.padding() == pytest.approx(1 - real / held)


@given(task_sizes, st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_proportional_epochs_see_every_row_exactly_once(sizes: list[int], seed: int) -> None:
    batches = stream(sizes, seed)
    for epoch in range(2):
        seen: Counter[tuple[int, int]] = Counter()
        for _ in batches.plan(epoch):
            seen.update(rows_of(batches.next()))
        assert seen == Counter(
            (task, row) for task, size in enumerate(sizes) for row in range(size)
        )


@given(
    task_sizes,
    st.sampled_from(["temperature", "annealed", "uniform"]),
    st.none() | st.integers(1, 12),
)
@settings(max_examples=25, deadline=None)
def test_other_mixtures_see_exactly_what_was_drawn(
    sizes: list[int], strategy: str, cap: int | None
) -> None:
    mixing = {"strategy": strategy, "cap": cap}
    batches = stream(sizes, 2, epochs=3, mixing=mixing)
    for epoch in range(3):
        drawn = Counter(
            (task, int(row))
            for task, size in enumerate(sizes)
            for row in draw_rows(
                task,
                size,
                sum(batches.counts(past)[task] for past in range(epoch)),
                batches.counts(epoch)[task],
                2,
            )
        )
        seen: Counter[tuple[int, int]] = Counter()
        for _ in batches.plan(epoch):
            seen.update(rows_of(batches.next()))
        assert seen == drawn


def test_a_batch_says_which_task_and_row_its_tokens_are() -> None:
    batches = stream([12, 7, 9])
    for _ in batches.plan(0):
        batch = batches.next()
        told = list(zip(batch.task_ids.tolist(), batch.rows.tolist(), strict=True))
        assert told == rows_of(batch)
        assert batch.targets.tolist() == [float(row) for _, row in told]


def test_epochs_differ_and_seeds_decide() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [numbers.tolist() for numbers in stream([40], seed).plan(epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    # Where all rows are of one length, the tasks still take turns in another way.
    splits = [encoded_split([5] * 20), encoded_split([5] * 20, mark=1000)]
    mixed = BatchStream(splits, settings_of(tokens=64, rows=5), Collator(PAD), seed=0)
    first, second = (np.concatenate([n // 20 for n in mixed.plan(epoch)]) for epoch in (0, 1))
    assert (first != second).any()


@given(st.data(), task_sizes, st.sampled_from(["proportional", "temperature", "annealed"]))
@settings(max_examples=25, deadline=None)
def test_order_is_restored_in_mid_epoch_and_across_epochs(
    data: st.DataObject, sizes: list[int], strategy: str
) -> None:
    mixing = {"strategy": strategy}
    first = stream(sizes, 1, epochs=3, mixing=mixing)
    steps = data.draw(st.integers(0, 2 * len(first.plan(0)) + 1))
    for _ in range(steps):
        first.next()
    resumed = stream(sizes, 1, epochs=3, mixing=mixing)
    resumed.load_state_dict(first.state_dict())
    for _ in range(len(first.plan(0)) + 2):
        assert_equal_batches(first.next(), resumed.next())
        assert first.state_dict() == resumed.state_dict()


def test_the_batches_of_an_even_step_are_of_similar_length() -> None:
    """In every epoch, wherever its first step begins, and after a resume."""

    def made(*, even: bool) -> BatchStream:
        return stream([203, 90], step=2, pool=60, even_steps=even)

    waits, rows = {}, {}
    for even in (False, True):
        whole = made(even=even)
        assert len(whole.plan(0)) % 2 == 1
        steps = [whole.next_step(2) for _ in range(3 * len(whole.plan(0)) // 2)]
        lengths = [[batch.input_ids.shape[1] for batch in step.batches] for step in steps]
        waits[even] = sum(abs(one - other) for one, other in lengths)
        first = steps[: len(whole.plan(0)) // 2]
        rows[even] = Counter(row for step in first for b in step.batches for row in rows_of(b))
        resumed = made(even=even)
        resumed.load_state_dict(whole.state_dict())
        assert_equal_batches(resumed.next(), whole.next())
    assert waits[True] <= 0.1 * waits[False]
    assert all(max(counted.values()) == 1 for counted in rows.values())


def assert_equal_batches(left: TaskBatch, right: TaskBatch) -> None:
    for name in ("input_ids", "attention_mask", "targets", "task_ids", "groups", "rows"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


def test_a_position_the_data_does_not_have_is_refused() -> None:
    drawn = stream([10])
    end = len(drawn.plan(0))
    drawn.load_state_dict({"epoch": 0, "batch": end})
    with pytest.raises(CheckpointError, match=f"batch {end + 1} of epoch 0") as caught:
        drawn.load_state_dict({"epoch": 0, "batch": end + 1})
    assert "data changed" in str(caught.value)


def nested(*examples: Sequence[Sequence[int]]) -> dict[str, list[list[list[int]]]]:
    return {
        "input_ids": [[list(s) for s in e] for e in examples],
        "token_type_ids": [],
        "labels": [],
    }


@pytest.mark.parametrize("left", [False, True])
def test_collator_pads_on_the_side_it_should(left: bool) -> None:
    rows = nested([[5, 6, 7]], [[8], [9, 4]])
    rows["labels"] = [[[-100, 6, 7]], [[8], [-100, 4]]]
    rows["token_type_ids"] = [[[0, 0, 1]], [[1], [0, 1]]]
    columns: dict[str, Any] = {**rows, "targets": [[2.0], [0.0, 1.0]]}
    batch = Collator(PAD, left=left)(columns, [3, 1], np.array([20, 11]))
    side = (
        [[5, 6, 7], [PAD, PAD, 8], [PAD, 9, 4]] if left else [[5, 6, 7], [8, PAD, PAD], [9, 4, PAD]]
    )
    assert batch.input_ids.tolist() == side
    assert batch.attention_mask.tolist() == [[int(i != PAD) for i in row] for row in side]
    assert batch.labels is not None
    assert batch.labels.tolist() == (
        [[-100, 6, 7], [-100, -100, 8], [-100, -100, 4]]
        if left
        else [[-100, 6, 7], [8, -100, -100], [-100, 4, -100]]
    )
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.sum().item() == 3
    assert batch.groups.tolist() == [0, 1, 1]
    assert batch.task_ids.tolist() == [3, 1, 1]
    assert batch.rows.tolist() == [20, 11]
    assert batch.targets.tolist() == [2.0, 0.0, 1.0]
    assert (batch.examples, batch.tokens) == (2, 6)


def test_pad_token_inside_a_text_stays_visible() -> None:
    columns: dict[str, Any] = {**nested([[PAD, 1, PAD]], [[1]]), "targets": [[0.0], [0.0]]}
    batch = Collator(PAD)(columns, [0, 0], np.array([0, 1]))
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_without_labels_have_none() -> None:
    columns: dict[str, Any] = {**nested([[1, 2]]), "targets": [[0.0]]}
    batch = Collator(PAD)(columns, [0], np.array([0]))
    assert batch.labels is None
    assert batch.token_type_ids is None


def test_batch_moves_whole() -> None:
    batch = next(evaluation_batches(encoded_split([3, 2]), 0, 64, Collator(PAD)))
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == moved.rows.device.type == "meta"
    assert moved.labels is None


@given(examples, st.integers(16, 120))
@settings(max_examples=25, deadline=None)
def test_evaluation_reads_every_row_once_within_its_budget(
    examples: list[tuple[int, int]], tokens: int
) -> None:
    lengths, sequences = (list(column) for column in zip(*examples, strict=True))
    split = encoded_split(lengths, sequences)
    rows = []
    for batch in evaluation_batches(split, 4, tokens, Collator(PAD)):
        rows += batch.rows.tolist()
        assert batch.input_ids.numel() <= tokens or batch.examples == 1
        assert set(batch.task_ids.tolist()) == {4}
        assert torch.bincount(batch.groups).tolist() == [sequences[r] for r in batch.rows.tolist()]
    assert sorted(rows) == list(range(len(examples)))


def test_batches_read_ahead_are_the_same_and_leave_no_thread() -> None:
    plain, ahead = stream([13, 9]), stream([13, 9])
    expected, states = [], []
    for _ in range(9):
        expected.append(plain.next())
        states.append(plain.state_dict())
    before = threading.active_count()
    with ahead.prefetching(3):
        for batch, state in zip(expected, states, strict=True):
            _same(ahead.next(), batch)
            assert ahead.state_dict() == state
        ahead.load_state_dict(states[2])
        _same(ahead.next(), expected[3])
        assert any(thread.name.startswith("peml-batches") for thread in threading.enumerate())
    assert threading.active_count() == before
    _same(ahead.next(), expected[4])


def test_what_goes_wrong_while_reading_ahead_is_raised_where_the_batch_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = stream([30, 9])
    fetch, seen = made.fetch, []

    def broken(planned: Indices) -> TaskBatch:
        seen.append(planned)
        if len(seen) == 3:
            raise OSError("the disk is gone")
        return fetch(planned)

    monkeypatch.setattr(made, "fetch", broken)
    with made.prefetching(2):
        made.next()  # starts to read the third
        made.next()
        with pytest.raises(OSError, match="disk is gone"):
            made.next()
    assert not any(thread.name.startswith("peml-batches") for thread in threading.enumerate())


def _same(one: TaskBatch, other: TaskBatch) -> None:
    for name in ("input_ids", "attention_mask", "targets", "task_ids", "groups", "rows"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("size", [2, 3])
def test_processes_take_the_batches_of_a_step_in_turn(size: int) -> None:
    """Steps of six batches: most epochs end within one. Reading ahead changes nothing."""
    whole, parts = stream([23, 18]), [stream([23, 18]) for _ in range(size)]
    assert len(whole.plan(0)) % 6
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.prefetching(3, every=size))
        for _ in range(4):
            step = whole.next_step(6)
            shares = [part.next_step(6, slice(n, None, size)) for n, part in enumerate(parts)]
            dealt = [share.batches[turn] for turn in range(6 // size) for share in shares]
            for batch, expected in zip(dealt, step.batches, strict=True):
                _same(batch, expected)
            for n, share in enumerate(shares):
                assert share.seeds == step.seeds[n::size]
                assert share.examples == step.examples == [b.examples for b in step.batches]
                assert share.tokens == step.tokens == sum(b.tokens for b in step.batches)
                assert list(share.task_rows.items()) == list(step.task_rows.items())
            assert len(set(step.seeds)) == 6
            counted: Counter[int] = Counter()
            for batch in step.batches:
                counted.update(batch.tasks.tolist())
            assert counted == step.task_rows
    assert {str(part.state_dict()) for part in parts} == {str(whole.state_dict())}
