"""The interface of executors, which run jobs."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from peml.execution.job import Job
from peml.execution.settings import ExecutionSettings
from peml.files import disk_errors

Report = Callable[[Job, int, float], bool]
"""Told of a job, its training step and its mean development metric at every evaluation; whether
the job is stopped there. After a worker's death or a kill a step may be told twice."""

JobT = TypeVar("JobT", bound=Job)


class Executor(ABC):
    """Runs jobs, so many at a time; a context manager that leaves nothing running.

    A subclass says how a job is started, waited for and ended.

    Args:
        settings: How many jobs run at a time, and the resources of each.
        report: Called in this process, during `wait`, after each evaluation of a job, which waits
            for the answer: whether to stop. None: no job is stopped.
    """

    retries = 0
    """Times a job is started again whose worker died, unless the settings say."""

    def __init__(self, settings: ExecutionSettings, report: Report | None = None) -> None:
        self.capacity = settings.jobs
        self._report = report
        self._retries = self.retries if settings.retries is None else settings.retries
        self._deaths: dict[Path, int] = {}

    def submit(self, job: Job) -> None:
        """Starts a job.

        A run folder that exists is continued; an earlier record of its failure or pruning is
        removed.

        Raises:
            RuntimeError: The executor has no room: `wait` first.
            PemlError: The folder can't be written, or the job can't be started.
        """
        if len(self._jobs()) >= self.capacity:
            raise RuntimeError(f"{self.capacity} jobs are running: wait for one of them first")
        with disk_errors(job.folder):
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            job.record.unlink(missing_ok=True)
        self._deaths[job.folder] = 0
        self._start(job)

    @abstractmethod
    def wait(self) -> list[Job]:
        """Blocks until at least one running job finished, failed or was pruned.

        Returns:
            Those jobs; empty if none is running.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends running jobs; their folders can be continued later."""

    @abstractmethod
    def _jobs(self) -> Sequence[Job]:
        """Jobs that were started and that `wait` has not returned yet."""

    @abstractmethod
    def _start(self, job: Job) -> None:
        """Starts a job, the first time or again."""

    def _has_settled(self, job: Job, reason: str) -> bool:
        """Whether a job whose worker is gone has ended; if not, it is started again.

        `reason` is written down if its worker died once too often.
        """
        if job.is_settled:
            return True
        self._deaths[job.folder] += 1
        if self._deaths[job.folder] <= self._retries:
            self._start(job)
            return False
        job.fail(reason)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_jobs(
    executor: Executor,
    jobs: Sequence[JobT],
    started: Callable[[JobT], None],
    ended: Callable[[JobT], None],
) -> None:
    """Runs jobs in their order; returns when all have ended.

    Why a job failed is in `Job.failure`. `started` is called with each job that starts, `ended`
    with each that finished, failed or was pruned. The executor must be idle.
    """
    waiting = deque(jobs)
    running: dict[Path, JobT] = {}
    while waiting or running:
        while waiting and len(running) < executor.capacity:
            job = waiting.popleft()
            executor.submit(job)
            running[job.folder] = job
            started(job)
        for done in executor.wait():
            ended(running.pop(done.folder))
