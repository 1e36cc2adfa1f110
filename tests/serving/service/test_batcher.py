"""The queue in front of the model thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from peml.serving.service.batcher import Batcher
from peml.serving.service.limits import Limits
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
