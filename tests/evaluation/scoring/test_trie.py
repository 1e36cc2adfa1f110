"""The trie and its plan: every token of every sequence, each node once, within the budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from peml.evaluation.scoring.layout import Layout, lay_out
from peml.evaluation.scoring.planning import Group, plan_groups
from peml.evaluation.scoring.trie import Trie

# Few tokens, so that sequences share beginnings, contain one another, and repeat.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=9).map(tuple), min_size=1, max_size=24
)
TASKS = st.integers(1, 2)
BUDGET = st.integers(4, 60)
SAVING = st.sampled_from([1, 5, None])


def trie_of(sequences: list[tuple[int, ...]], tasks: int) -> Trie:
    return Trie([s[:-1] for s in sequences], [i % tasks for i in range(len(sequences))])


def nodes_one_by_one(sequences: list[tuple[int, ...]], tasks: int) -> int:
    """The slow reference: every distinct beginning is a node."""
    return len(
        {
            (i % tasks, sequence[:length])
            for i, sequence in enumerate(sequences)
            for length in range(1, len(sequence))
        }
    )


def layouts(
    trie: Trie, sequences: list[tuple[int, ...]], group: Group, firsts: list[int]
) -> list[tuple[Layout, int, int]]:
    """All layouts of a plan, with the places and the depth behind which they are computed."""
    found = []
    if group.depth > group.start:
        run = (group.first, group.stop)
        trunk = lay_out(trie, sequences, firsts, run, group.start, group.depth)
        found.append((trunk, group.first, group.start))
    for row in group.rows:
        laid = lay_out(trie, sequences, firsts, (row.first, row.stop), group.depth)
        assert len(laid.tokens) == row.size
        found.append((laid, row.first, group.depth))
    for longer in group.groups:
        found.extend(layouts(trie, sequences, longer, firsts))
    return found


@given(SEQUENCES, TASKS)
def test_nodes_are_the_distinct_beginnings(sequences: list[tuple[int, ...]], tasks: int) -> None:
    trie = trie_of(sequences, tasks)
    assert trie.nodes(0, len(trie)) == nodes_one_by_one(sequences, tasks)
    for place, index in enumerate(trie.order):
        assert tuple(trie.tokens(place)) == sequences[index][:-1]


@given(SEQUENCES, TASKS, BUDGET)
def test_where_every_saving_counts_each_node_is_computed_once(
    sequences: list[tuple[int, ...]], tasks: int, budget: int
) -> None:
    trie = trie_of(sequences, tasks)
    found = layouts(trie, sequences, plan_groups(trie, budget, saving=1), [1] * len(sequences))
    computed = sum(len(layout.tokens) for layout, _, _ in found)
    assert computed == nodes_one_by_one(sequences, tasks)


@given(SEQUENCES, TASKS, BUDGET, SAVING)
def test_every_target_is_read_once_from_a_token_that_sees_what_comes_before_it(
    sequences: list[tuple[int, ...]], tasks: int, budget: int, saving: int | None
) -> None:
    trie = trie_of(sequences, tasks)
    firsts = [1 + i % (len(sequence) - 1) for i, sequence in enumerate(sequences)]
    seen: list[tuple[int, int]] = []
    for layout, place, depth in layouts(trie, sequences, plan_groups(trie, budget, saving), firsts):
        assert layout.wanted == len(set(layout.slots.tolist()))
        assert (layout.slots >= len(layout.tokens) - layout.wanted).all()
        for slot, target, request in zip(
            layout.slots, layout.targets, layout.requests, strict=True
        ):
            visible = np.flatnonzero(layout.sees[slot])
            path = visible[np.argsort(layout.depths[visible])]
            before = (*trie.tokens(place)[:depth], *layout.tokens[path])
            position = int(layout.depths[slot])
            assert before == sequences[request][: position + 1]
            assert layout.depths[path].tolist() == list(range(depth, position + 1))
            assert target == sequences[request][position + 1]
            seen.append((int(request), position + 1))
    wanted = [
        (index, place)
        for index, sequence in enumerate(sequences)
        for place in range(firsts[index], len(sequence))
    ]
    assert sorted(seen) == wanted


@given(SEQUENCES, TASKS, BUDGET, SAVING)
def test_batches_stay_within_the_budget_and_rows_within_one_task(
    sequences: list[tuple[int, ...]], tasks: int, budget: int, saving: int | None
) -> None:
    trie = trie_of(sequences, tasks)

    def check(group: Group) -> None:
        assert group.depth <= trie.longest
        rows = [row for batch in group.batches(budget, trie.longest) for row in batch]
        assert sorted(rows, key=lambda row: row.first) == list(group.rows)
        for batch in group.batches(budget, trie.longest):
            size = max(row.size for row in batch)
            keys = group.depth + size
            if len(batch) > 1 or batch[0].stop - batch[0].first > 1:
                assert len(batch) * keys <= budget
                assert len(batch) * size * keys <= budget * trie.longest
            for row in batch:
                assert len({i % tasks for i in trie.order[row.first : row.stop]}) == 1
        for batch in group.batches(budget, trie.longest, 6):
            assert len(batch) == 1 or len(batch) * max(row.size for row in batch) <= 6
        for longer in group.groups:
            check(longer)

    check(plan_groups(trie, budget, saving))


@given(SEQUENCES, BUDGET)
def test_no_more_is_computed_than_without_sharing(
    sequences: list[tuple[int, ...]], budget: int
) -> None:
    trie = trie_of(sequences, 1)
    found = layouts(trie, sequences, plan_groups(trie, budget), [1] * len(sequences))
    computed = sum(len(layout.tokens) for layout, _, _ in found)
    assert computed <= sum(len(sequence) - 1 for sequence in sequences)


def test_options_join_their_question_and_questions_a_trunk() -> None:
    shots = tuple(range(100, 700))
    sequences = [(*shots, *[q] * 50, option, 0) for q in range(60) for option in range(4)]
    trie = trie_of(sequences, 1)
    plan = plan_groups(trie, 8192)
    (group,) = plan.groups
    assert (group.start, group.depth, plan.rows) == (0, 600, ())
    assert [row.size for row in group.rows] == [54] * 60
    # One question is no reason for a pass more.
    alone = plan_groups(trie_of(sequences[:4], 1), 8192)
    assert [row.size for row in alone.rows] == [654]
    assert alone.groups == ()


def test_unlike_questions_do_not_share_a_row() -> None:
    sequences = [(1, 2, *[10 + q] * 40, option, 0) for q in range(6) for option in range(4)]
    plan = plan_groups(trie_of(sequences, 1), 8192)
    assert [row.stop - row.first for row in plan.rows] == [4] * 6
    assert plan.groups == ()
