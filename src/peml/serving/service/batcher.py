"""Collects work of many requests into batches for one model thread."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Text, Work

Compute = Callable[[Sequence[Work]], Sequence[tuple[Work, Any]]]
"""Takes new work of one lane; returns the work that is done, with its answers."""


@dataclass(eq=False)
class _Job:
    """The work of one request."""

    future: asyncio.Future[list[Any]]
    results: list[Any]
    missing: int


@dataclass(slots=True)
class _Waiting:
    job: _Job
    place: int
    work: Work
    since: float = field(default_factory=time.monotonic)

    def deliver(self, result: Any) -> None:
        job = self.job
        job.results[self.place] = result
        job.missing -= 1
        if not job.missing and not job.future.done():
            job.future.set_result(job.results)


class Batcher:
    """The queue in front of the model thread.

    The thread gets work of one lane at a time, in the order of arrival, up to a budget of tokens:
    rows, which it scores at once, or texts, which join those that it is writing, token by token.
    While there is work of both lanes, each gets half of the thread's time. If the last batch had
    work of several requests, the next one waits a few milliseconds for more.

    Args:
        compute: Called on the model thread.
        tokens: Most tokens of a batch; work that is larger is a batch by itself.
        limits: Length of the queue, and how long a batch waits.
        on_batch: Called after each turn of the thread with its lane, its rows or texts, the tokens
            of the new ones, and seconds.
    """

    def __init__(
        self,
        compute: Compute,
        tokens: int,
        limits: Limits,
        on_batch: Callable[[str, int, int, float], None] = lambda *_: None,
    ) -> None:
        self._compute = compute
        self._tokens = tokens
        self._limits = limits
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._texts: dict[Work, _Waiting] = {}  # that are being written
        self._spent: dict[str, float] = {}  # seconds by lane, since both have work
        self._changed = asyncio.Event()
        self._crowded = False
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="peml-model")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of rows and texts in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether work is taken."""
        return self._task is not None and not self._task.done() and not self._closing

    def start(self) -> None:
        """Begins to take work."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Answers what is in the queue, then ends the model thread."""
        self._closing = True
        self._changed.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, work: Sequence[Work]) -> list[Any]:
        """Answers to the work of one request; if the caller is cancelled, it leaves the queue."""
        if not work:
            return []
        if self._closing:
            raise RefusedError(
                503, "stopping", "the service is stopping", remedy="ask another instance"
            )
        if self._waiting and len(self._waiting) + len(work) > self._limits.queue:
            raise RefusedError(
                429,
                "overloaded",
                f"{len(self._waiting)} rows wait already",
                allowed=f"at most {self._limits.queue} waiting rows",
                remedy="ask again after the seconds that Retry-After says",
                headers={"Retry-After": "1"},
            )
        job = _Job(asyncio.get_running_loop().create_future(), [None] * len(work), len(work))
        self._waiting += [_Waiting(job, place, each) for place, each in enumerate(work)]
        self._changed.set()
        try:
            return await job.future
        finally:
            if not job.future.done() or job.future.cancelled():
                for each in work:
                    each.gone = True
                self._waiting = deque(each for each in self._waiting if each.job is not job)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while await self._has_work():
            lane = self._next_lane()
            batch = self._cut(lane)
            self._crowded = len({id(each.job) for each in batch}) > 1
            asked = {each.work: each for each in batch}
            if lane == Text.lane:
                self._texts |= asked
                asked = self._texts
            count, began = len(asked), time.monotonic()
            done: Sequence[tuple[Work, Any]]
            try:
                done = await loop.run_in_executor(
                    self._thread, self._compute, [each.work for each in batch]
                )
            except Exception as error:  # whatever it is, the next batch is answered
                done = [(work, error) for work in asked]
            spent = time.monotonic() - began
            self._spent[lane] = self._spent.get(lane, 0.0) + spent
            self._on_batch(lane, count, sum(each.work.tokens for each in batch), spent)
            for work, result in done:
                asked.pop(work).deliver(result)

    async def _has_work(self) -> bool:
        """Waits for work, on a busy service for a full batch; False when there will be none."""
        while True:
            if self._texts or (self._waiting and not (wait := self._wait())):
                return True
            if self._closing:
                return False
            await self._change(wait if self._waiting else None)

    async def _change(self, most: float | None) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(most):
                await self._changed.wait()

    def _wait(self) -> float:
        """Seconds that what is in the queue waits for more."""
        full = sum(each.work.tokens for each in self._waiting) >= self._tokens
        if full or self._closing or not self._crowded:
            return 0.0
        since = self._waiting[0].since + self._limits.wait / 1000
        return max(0.0, since - time.monotonic())

    def _next_lane(self) -> str:
        """The lane that has work; of two, the one that had less time since both have."""
        lanes = [each.work.lane for each in self._waiting] + [Text.lane] * bool(self._texts)
        if len({*lanes}) == 1:
            self._spent.clear()
        return min(lanes, key=lambda lane: self._spent.get(lane, 0.0))

    def _cut(self, lane: str) -> list[_Waiting]:
        """Takes the first work of a lane from the queue, as much as a batch holds."""
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        held = [work.tokens for work in self._texts] if lane == Text.lane else []
        count, longest, total, full = len(held), max(held, default=0), sum(held), False
        for each in self._waiting:
            if full or each.work.lane != lane:
                left.append(each)
                continue
            count, total = count + 1, total + each.work.tokens
            longest = max(longest, each.work.tokens)
            size = count * longest if lane == Text.lane else total  # texts are padded
            full = count > 1 and size > self._tokens
            (left if full else batch).append(each)
        self._waiting = left
        return batch
