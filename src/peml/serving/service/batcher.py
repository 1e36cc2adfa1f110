"""Collects work of many requests into batches for one model thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Work

Compute = Callable[[Sequence[Work]], Sequence[Any]]
"""Answers work of one lane, in its order."""


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


class Batcher:
    """The queue in front of the model thread.

    A batch takes work of one lane in the order of arrival, up to a budget of tokens. If the last
    batch had work of several requests, the next one waits a few milliseconds for more.

    Args:
        compute: Called on the model thread.
        tokens: Most tokens of a batch; work that is larger is a batch by itself.
        limits: Length of the queue, and how long a batch waits.
        on_batch: Called after each batch with its lane, amount of work, tokens and seconds.
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
        self._changed = threading.Condition()
        self._crowded = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="peml-model", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of rows and texts in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the model thread runs."""
        return self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Starts the model thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Answers what is in the queue, then ends the model thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    async def submit(self, work: Sequence[Work]) -> list[Any]:
        """Answers to the work of one request; if the caller is cancelled, it leaves the queue."""
        if not work:
            return []
        job = _Job(asyncio.get_running_loop().create_future(), [None] * len(work), len(work))
        with self._changed:
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
            self._waiting += [_Waiting(job, place, each) for place, each in enumerate(work)]
            self._changed.notify()
        try:
            return await job.future
        finally:
            if not job.future.done() or job.future.cancelled():
                self._forget(job, work)

    def _forget(self, job: _Job, work: Sequence[Work]) -> None:
        for each in work:
            each.gone = True
        with self._changed:
            self._waiting = deque(each for each in self._waiting if each.job is not job)

    def _run(self) -> None:
        while batch := self._take():
            began = time.monotonic()
            try:
                results = self._compute([each.work for each in batch])
            except Exception as error:  # whatever it is, the next batch is answered
                results = [error] * len(batch)
            spent = time.monotonic() - began
            tokens = sum(each.work.tokens for each in batch)
            self._on_batch(batch[0].work.lane, len(batch), tokens, spent)
            self._loop.call_soon_threadsafe(self._deliver, batch, results)

    def _deliver(self, batch: Sequence[_Waiting], results: Sequence[Any]) -> None:
        for each, result in zip(batch, results, strict=True):
            job = each.job
            job.results[each.place] = result
            job.missing -= 1
            if not job.missing and not job.future.done():
                job.future.set_result(job.results)

    def _take(self) -> list[_Waiting]:
        """The next batch; empty when the service stops and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._crowded and self._waiting:
                until = self._waiting[0].since + self._limits.wait / 1000 - time.monotonic()
                self._changed.wait_for(self._is_full, timeout=max(0.0, until))
            batch = self._cut()
            self._crowded = len({id(each.job) for each in batch}) > 1
        # All who waited may have gone meanwhile.
        return batch or ([] if self._closing else self._take())

    def _is_full(self) -> bool:
        return self._closing or sum(each.work.tokens for each in self._waiting) >= self._tokens

    def _cut(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        tokens = 0
        while self._waiting:
            each = self._waiting.popleft()
            fits = not batch or tokens + each.work.tokens <= self._tokens
            if fits and (not batch or each.work.lane == batch[0].work.lane):
                batch.append(each)
                tokens += each.work.tokens
                continue
            left.append(each)
            if not fits:
                break
        left.extend(self._waiting)
        self._waiting = left
        return batch
