"""Reads batches ahead, while the model computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from peml.data.batch import TaskBatch
from peml.data.mixing import Indices

Plan = Sequence[tuple[Indices, Indices]]


@dataclass
class Ahead:
    """Batches that a thread reads ahead; without a thread, each is read when it is asked for.

    The thread reads ``count`` batches ahead; every ``every``-th of the plan is asked for. ``pin``
    puts them in page-locked memory.
    """

    pool: ThreadPoolExecutor | None = None
    count: int = 0
    every: int = 1
    pin: bool = False
    reading: dict[tuple[int, int], Future[TaskBatch]] = field(default_factory=dict)

    def take(
        self, epoch: int, number: int, plan: Plan, fetch: Callable[..., TaskBatch]
    ) -> TaskBatch:
        """Returns a planned batch, and starts to read the next ones of the epoch.

        It doesn't go beyond the epoch, since the next epoch's order may still change.
        """
        if self.pool is None:
            return fetch(*plan[number])
        last = number + self.count * self.every
        for later in range(number, min(last + 1, len(plan)), self.every):
            if (epoch, later) not in self.reading:
                job = self.pool.submit(self._read, fetch, *plan[later])
                self.reading[epoch, later] = job
        return self.reading.pop((epoch, number)).result()

    def _read(self, fetch: Callable[..., TaskBatch], tasks: Indices, rows: Indices) -> TaskBatch:
        batch = fetch(tasks, rows).with_facts()
        return batch.pinned() if self.pin else batch

    def cancel(self) -> None:
        """Forgets the batches that were read ahead."""
        for job in self.reading.values():
            job.cancel()
        self.reading.clear()
