"""The queue in front of the model thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from peml.serving.service.batcher import Batcher
from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Work

STEPS = 12


class Row(Work):
    lane = "rows"


class Text(Work):
    lane = "texts"


def test_long_batches_of_rows_take_no_more_time_than_texts() -> None:
    turns: list[str] = []
    texts: list[Work] = []

    def compute(work: Sequence[Work]) -> list[tuple[Work, Any]]:
        if work and work[0].lane == "rows":
            turns.append("rows")
            time.sleep(0.04)
            return [(each, "scored") for each in work]
        turns.append("texts")
        texts.extend(work)
        time.sleep(0.01)
        done = turns.count("texts") == STEPS
        return [(each, "written") for each in texts if done]

    async def ask_for_rows(batcher: Batcher, text: asyncio.Task[list[Any]]) -> None:
        while not text.done():
            assert await batcher.submit([Row(0, 10)]) == ["scored"]

    async def ask() -> None:
        batcher = Batcher(compute, 20, Limits())
        batcher.start()
        text = asyncio.create_task(batcher.submit([Text(0, 10)]))
        await asyncio.gather(*(ask_for_rows(batcher, text) for _ in range(4)))
        assert await text == ["written"]
        await batcher.close()

    asyncio.run(ask())
    until = turns[: len(turns) - turns[::-1].index("texts")]
    assert until.count("texts") == STEPS
    assert 2 <= until.count("rows") <= 1 + STEPS // 3


@pytest.mark.parametrize(
    ("kind", "tokens", "batches"),
    [
        (Row, [10, 10, 10, 10, 10], [[10, 10], [10, 10], [10]]),
        (Row, [10, 30, 10], [[10], [30], [10]]),  # one that is larger is a batch by itself
        (Text, [5, 15, 5], [[5], [15], [5]]),  # in rows of the longest, two would take 30
        (Text, [10, 10, 10], [[10, 10], [10]]),
    ],
)
def test_batches_keep_to_the_budget_of_tokens(
    kind: type[Work], tokens: list[int], batches: list[list[int]]
) -> None:
    seen: list[list[int]] = []

    def compute(work: Sequence[Work]) -> list[tuple[Work, Any]]:
        seen.append([each.tokens for each in work])
        return [(each, each.tokens) for each in work]

    async def ask() -> list[Any]:
        batcher = Batcher(compute, 20, Limits())
        batcher.start()
        answers = await batcher.submit([kind(0, each) for each in tokens])
        await batcher.close()
        return answers

    assert asyncio.run(ask()) == tokens
    assert seen == batches


def test_a_request_is_refused_if_the_queue_would_be_too_long_and_taken_if_it_is_empty() -> None:
    held = threading.Event()

    def compute(work: Sequence[Work]) -> list[tuple[Work, Any]]:
        held.wait(10)
        return [(each, "scored") for each in work]

    async def ask() -> None:
        batcher = Batcher(compute, 10, Limits(queue=4))
        batcher.start()
        earlier = asyncio.gather(
            *(batcher.submit([Row(0, 10) for _ in range(count)]) for count in (3, 1))
        )
        await asyncio.sleep(0.05)  # one is computed, three wait
        with pytest.raises(RefusedError):
            await batcher.submit([Row(0, 10) for _ in range(2)])
        held.set()
        assert await earlier == [["scored"] * 3, ["scored"]]
        assert await batcher.submit([Row(0, 10) for _ in range(9)]) == ["scored"] * 9
        await batcher.close()

    asyncio.run(ask())


def test_a_full_batch_does_not_wait_for_more() -> None:
    def compute(work: Sequence[Work]) -> list[tuple[Work, Any]]:
        return [(each, "scored") for each in work]

    async def ask() -> float:
        batcher = Batcher(compute, 20, Limits(wait=20_000))
        batcher.start()
        # A batch of two requests, after which the next one waits.
        await asyncio.gather(*(batcher.submit([Row(0, 10)]) for _ in range(2)))
        since = time.monotonic()
        await asyncio.gather(*(batcher.submit([Row(0, 10)]) for _ in range(2)))
        taken = time.monotonic() - since
        await batcher.close()
        return taken

    assert asyncio.run(ask()) < 10


def test_time_that_one_lane_had_alone_is_not_held_against_it() -> None:
    turns: list[str] = []

    def compute(work: Sequence[Work]) -> list[tuple[Work, Any]]:
        turns.append(work[0].lane)
        time.sleep(0.02)
        return [(each, "done") for each in work]

    async def ask() -> None:
        batcher = Batcher(compute, 10, Limits())
        batcher.start()
        await batcher.submit([Row(0, 10) for _ in range(20)])
        both: list[list[Work]] = [[Row(0, 10) for _ in range(6)], [Text(0, 10) for _ in range(6)]]
        await asyncio.gather(*(batcher.submit(work) for work in both))
        await batcher.close()

    asyncio.run(ask())
    assert turns[20:28].count("rows") >= 3
