"""Work in a process of its own, and processes that die by SIGKILL at a chosen moment.

The processes are forked from a server that has imported the package and run nothing, so each is
as fresh as a new interpreter without the seconds the imports take. They render no figures.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from peml.execution.processes import WARM

_MOST_SECONDS = 240


@functools.cache
def fresh_processes() -> ForkServerContext:
    """The server that processes are forked from, started before the first test.

    They inherit the environment it starts in, with it the number of threads and so the last bits
    of every sum: it must not start while a test or a comparison has changed that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WARM, "tests.e2e.without_figures"])
    forkserver.ensure_running()
    return context


@dataclass(frozen=True)
class Moment:
    """A moment in a process: the n-th call of a function.

    Attributes:
        target: Dotted name of a function or method, as the caller looks it up.
        call: Number of the call, from 1.
        after: Whether the moment is right after the call, or right before it.
    """

    target: str
    call: int = 1
    after: bool = False

    def kill(self) -> None:
        """Makes this process die by SIGKILL at the moment."""
        owner, name = _resolve(self.target)
        original = getattr(owner, name)
        calls = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if calls == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, counted)


def _resolve(target: str) -> tuple[Any, str]:
    path, _, name = target.rpartition(".")
    parts: list[str] = []
    while True:
        try:
            owner = importlib.import_module(path)
            break
        except ModuleNotFoundError:
            path, _, part = path.rpartition(".")
            parts.insert(0, part)
    for part in parts:
        owner = getattr(owner, part)
    return owner, name


def start_apart(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Calls a function in a fresh process, to be killed or joined."""
    process = fresh_processes().Process(
        target=_call, args=(os.environ["PEML_CACHE"], function, args)
    )
    process.start()
    return process


def run_apart(function: Callable[..., None], *args: Any) -> int:
    """Calls a function in a fresh process and returns its exit code, -9 for SIGKILL."""
    process = start_apart(function, *args)
    process.join(_MOST_SECONDS)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{function.__name__}{args} took over {_MOST_SECONDS} seconds")
    assert process.exitcode is not None
    return process.exitcode


def _call(cache: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ["PEML_CACHE"] = cache
    function(*args)


def fit_apart(config: Path, output: Path, moment: Moment | None = None) -> int:
    """``peml fit`` in a fresh process; with a moment, killed at it."""
    return run_apart(_fit, config, output, moment)


def _fit(config: Path, output: Path, moment: Moment | None) -> None:
    from peml.cli import main

    if moment is not None:
        moment.kill()
    main(["fit", str(config), "--output", str(output)])
