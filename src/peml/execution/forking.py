"""Forks the server of workers from this process, instead of letting it import everything again."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

WARM = "peml.execution.warm"
"""What the server imports."""


def fork_server(first: Callable[[], object]) -> None:
    """Imports what runs need, and forks the server that `ProcessExecutor` forks its workers from.

    `first` is called before the fork: what it makes, workers need not make again.

    For a command that will run jobs, before it computes anything: a fork would lose threads and
    GPUs. (Threads of OpenBLAS and jemalloc, which imports start, survive it.) It spares the server
    the imports. Does nothing in a process that has torch already, or on a system whose libraries
    may not survive a fork.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    import_module(WARM)
    first()
    start_here()


def start_here() -> None:
    """Forks the server from this process, which has computed nothing yet."""
    resource_tracker.ensure_running()  # the server inherits it
    starting: Any = util
    spawn, starting.spawnv_passfds = starting.spawnv_passfds, _fork
    try:
        forkserver.ensure_running()
    finally:
        starting.spawnv_passfds = spawn


def _fork(_: bytes, words: Sequence[str], inherited: Sequence[int]) -> int:
    """In place of ``spawnv_passfds``: runs Python code, the last word, in a fork of this one."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else each worker would print what is left
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # Else it would hold the pipe whose end tells it that this process is gone.
        first = 3
        for kept in [*sorted(inherited), os.sysconf("SC_OPEN_MAX")]:
            os.closerange(first, kept)
            first = kept + 1
        own: Any = forkserver._forkserver
        own._lock = threading.Lock()  # this process held it as it forked
        exec(words[-1], {})
    except SystemExit:  # the end of the last process that could ask it
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
