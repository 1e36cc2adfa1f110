"""Runs each job in a process of its own, so that one that dies harms no other.

On Linux, the processes are forked from a server that has imported what a run needs and has done
nothing else, so each is like a new interpreter that needn't wait for imports.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from typing import Any

from peml.execution.executor import Executor, Report
from peml.execution.job import Job
from peml.execution.settings import ExecutionSettings
from peml.execution.work import print_to, work

WARM = "peml.execution.warm"
"""What the server imports."""

# Elsewhere, libraries of the system may not survive a fork.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _CONTEXT.set_forkserver_preload([WARM])
_GRACE = 10.0  # seconds


@dataclass(frozen=True)
class _Worker:
    job: Job
    process: BaseProcess
    reports: Connection | None


class ProcessExecutor(Executor):
    """Trains each job in a fresh process with its share of the cores.

    The processes end when this one ends, even if it is killed.
    """

    def __init__(self, settings: ExecutionSettings, report: Report | None = None) -> None:
        super().__init__(settings, report)
        import torch

        self._threads = settings.cpus or max(1, torch.get_num_threads() // settings.jobs)
        self._workers: dict[int, _Worker] = {}  # by the sentinel of the process

    def wait(self) -> list[Job]:
        ended: list[Job] = []
        while self._workers and not ended:
            pipes = {
                worker.reports: worker
                for worker in self._workers.values()
                if worker.reports is not None and not worker.reports.closed
            }
            for ready in wait([*pipes, *self._workers]):
                if isinstance(ready, Connection):
                    self._answer(pipes[ready].job, ready)
                    continue
                assert isinstance(ready, int)
                worker = self._workers.pop(ready)
                _collect(worker)
                if self._has_settled(worker.job, _reason_of_death(worker)):
                    ended.append(worker.job)
        return ended

    def close(self) -> None:
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_GRACE)
            if worker.process.is_alive():
                worker.process.kill()
            _collect(worker)

    def _jobs(self) -> Sequence[Job]:
        return [worker.job for worker in self._workers.values()]

    def _start(self, job: Job) -> None:
        ours, theirs = (None, None) if self._report is None else _CONTEXT.Pipe()
        work_of = (job.packed(), self._threads, theirs, dict(os.environ))
        process = _CONTEXT.Process(target=_work, args=work_of, name=job.name)
        # Read as libraries are loaded: the server is to have no threads that a fork would lose.
        with _environment("OMP_NUM_THREADS", "1"):
            process.start()
        if theirs is not None:
            theirs.close()  # so that the pipe ends with the process
        self._workers[process.sentinel] = _Worker(job, process, ours)

    def _answer(self, job: Job, reports: Connection) -> None:
        assert self._report is not None
        try:
            step, value = reports.recv()
        except (EOFError, OSError):  # the process is gone, as its sentinel says too
            reports.close()
            return
        answer = self._report(job, step, value)
        with suppress(OSError):
            reports.send(answer)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for processes started in the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _collect(worker: _Worker) -> None:
    worker.process.join()
    if worker.reports is not None:
        worker.reports.close()


def _reason_of_death(worker: _Worker) -> str:
    """Why a process died that could not record it itself."""
    code = worker.process.exitcode or 0
    if code >= 0:
        return f"its process ended with exit code {code}, see {worker.job.log}"
    reason = f"killed by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        reason += ", as the system does when memory runs out"
    return reason


def _work(
    packed: dict[str, Any], threads: int, reports: Connection | None, environment: dict[str, str]
) -> None:
    os.environ.clear()  # the server's is that of the time it was started at
    os.environ.update(environment | {"OMP_NUM_THREADS": str(threads)})
    import torch
    from threadpoolctl import threadpool_limits

    job = Job.unpack(packed)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # tidies up, unlike the default
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    print_to(job.log)

    def stops(step: int, value: float) -> bool:
        assert reports is not None
        try:
            reports.send((step, value))
            return bool(reports.recv())
        except (EOFError, OSError):
            sys.exit(1)  # the parent is gone: no failure of the run

    work(job, None if reports is None else stops)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # whatever the other threads do: the run folder is to be free
