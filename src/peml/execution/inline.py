"""Jobs in this process, one after another."""

from collections.abc import Sequence

from peml.execution.executor import Executor
from peml.execution.job import Job
from peml.execution.work import work


class _ReportFailed(BaseException):
    """Carries an error of the caller's report past `work`, which would record it as the run's."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class InlineExecutor(Executor):
    """Trains each job in this process, during `wait`."""

    _job: Job | None = None

    def wait(self) -> list[Job]:
        job, self._job = self._job, None
        if job is None:
            return []
        report = self._report

        def stops(step: int, value: float) -> bool:
            try:
                return report is not None and report(job, step, value)
            except Exception as error:
                raise _ReportFailed(error) from error

        try:
            work(job, stops)
        except _ReportFailed as failed:
            raise failed.error from None
        return [job]

    def close(self) -> None:
        self._job = None

    def _jobs(self) -> Sequence[Job]:
        return [] if self._job is None else [self._job]

    def _start(self, job: Job) -> None:
        self._job = job
