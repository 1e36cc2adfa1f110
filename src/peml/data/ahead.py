"""Reads batches ahead, while the model computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from peml.data.batch import TaskBatch
from peml.data.mixing import Indices

Plan = Sequence[tuple[Indices, Indices]]


class Ahead:
    """Batches that a thread reads ahead; without a thread, each is read when it is asked for.

    The thread reads ``count`` batches ahead; every ``every``-th of the plan is asked for. ``pin``
    puts them in page-locked memory.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor | None = None,
        count: int = 0,
        *,
        every: int = 1,
        pin: bool = False,
    ) -> None:
        self._pool, self._count, self._every, self._pin = pool, count, every, pin
        self._reading: dict[tuple[int, int], Future[TaskBatch]] = {}

    def take(
        self, epoch: int, number: int, plan: Plan, fetch: Callable[..., TaskBatch]
    ) -> TaskBatch:
        """Returns a planned batch, and starts to read the next ones of the epoch.

        It doesn't go beyond the epoch, since the next epoch's order may still change.
        """
        if self._pool is None:
            return fetch(*plan[number])
        last = number + self._count * self._every
        for later in range(number, min(last + 1, len(plan)), self._every):
            if (epoch, later) not in self._reading:
                job = self._pool.submit(self._read, fetch, *plan[later])
                self._reading[epoch, later] = job
        return self._reading.pop((epoch, number)).result()

    def _read(self, fetch: Callable[..., TaskBatch], tasks: Indices, rows: Indices) -> TaskBatch:
        batch = fetch(tasks, rows).with_facts()
        return batch.pinned() if self._pin else batch

    def cancel(self) -> None:
        """Forgets the batches that were read ahead."""
        for job in self._reading.values():
            job.cancel()
        self._reading.clear()
