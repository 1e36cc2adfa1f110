"""Cells in processes of their own: one that dies takes nothing else with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process

import torch

from peml.comparison.cells import Cell
from peml.errors import PemlError
from peml.files import disk_errors
from peml.run import fit

__all__ = ["run_cells"]

_CONTEXT = multiprocessing.get_context("spawn")
_GRACE = 10.0  # seconds


def run_cells(
    cells: Sequence[Cell],
    jobs: int,
    started: Callable[[Cell], None],
    ended: Callable[[Cell], None],
) -> None:
    """Runs cells in fresh processes, so many at a time; returns when all have ended.

    A cell that fails leaves its reason behind, see `Cell.failure`. The processes end with this
    one, whatever ends it.

    Args:
        cells: In this order.
        jobs: Processes at a time; each has its share of the cores.
        started: Told of each cell as it starts.
        ended: Told of each cell that finished or failed.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = deque(cells)
    running: dict[int, tuple[Cell, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                process = _start(cell, threads)
                running[process.sentinel] = (cell, process)
                started(cell)
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                cell, process = running.pop(sentinel)
                process.join()
                _settle(cell, process.exitcode or 0)
                ended(cell)
    finally:
        _stop([process for _, process in running.values()])


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Ends processes: a run can be stopped at any moment and goes on later."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _start(cell: Cell, threads: int) -> BaseProcess:
    with disk_errors(cell.folder):
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
    process = _CONTEXT.Process(target=_work, args=(cell, threads), name=cell.name)
    with _environment("OMP_NUM_THREADS", str(threads)):  # read when the libraries are loaded
        process.start()
    return process


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


def _settle(cell: Cell, code: int) -> None:
    """Writes down what the process itself could not."""
    if cell.is_finished or cell.failure() is not None:
        return
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            reason += ", as the system does when memory runs out"
    else:
        reason = f"its process ended with exit code {code}, see {cell.log}"
    cell.fail(reason)


def _work(cell: Cell, threads: int) -> None:
    """The process of one cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # tidies up, unlike the default
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with cell.log.open("a", encoding="utf-8") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            fit(cell.config, cell.folder)
        except PemlError as error:
            traceback.print_exc(file=log)
            cell.fail(error.problem)
        except Exception as error:
            traceback.print_exc(file=log)
            cell.fail(f"{type(error).__name__}: {error}")
        else:
            cell.log.unlink()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # whatever the other threads do: the run folder is to be free
