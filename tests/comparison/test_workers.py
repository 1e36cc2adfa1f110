"""Processes of cells: what dies is written down, the rest goes on, none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from peml.comparison import parse_comparison, workers
from peml.comparison.cells import Cell, cells_of
from peml.errors import TrainingError
from tests.comparison.quick import finish

pytestmark = pytest.mark.usefixtures("quick_processes")


def cells(folder: Path, *labels: str) -> list[Cell]:
    methods = {label: {"name": "lora", "lora": {"r": r + 1}} for r, label in enumerate(labels)}
    config = parse_comparison(
        {"run": {"tasks": {"suite": "glue"}}, "methods": methods, "seeds": [0]}
    )
    return cells_of(
        config, folder, {"glue": dict(config.methods)}, {("glue", label): 1.0 for label in labels}
    )


def acting(monkeypatch: pytest.MonkeyPatch, act: Callable[[Cell, int], None]) -> None:
    """Lets the processes do something else than train."""
    monkeypatch.setattr(workers, "_work", act)


def run(cells: list[Cell], jobs: int = 1) -> list[str]:
    """Runs cells and returns what was told of them."""
    told: list[str] = []
    workers.run_cells(
        cells,
        jobs,
        lambda cell: told.append(f"+{cell.label}"),
        lambda cell: told.append(f"-{cell.label}"),
    )
    return told


def _act(cell: Cell, threads: int) -> None:
    if cell.label == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.label == "leaves":
        os._exit(3)
    time.sleep(0.2)
    finish(cell.folder, {}, {"threads": threads})


def test_a_process_that_dies_is_written_down_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting(monkeypatch, _act)
    dies, leaves, works = cells(tmp_path, "dies", "leaves", "works")
    assert run([dies, leaves, works]) == [
        "+dies",
        "-dies",
        "+leaves",
        "-leaves",
        "+works",
        "-works",
    ]
    assert "killed by SIGKILL" in str(dies.failure())
    assert "exit code 3" in str(leaves.failure())
    assert works.is_finished
    assert works.failure() is None


def test_jobs_run_side_by_side_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting(monkeypatch, _act)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    three = cells(tmp_path, "one", "two", "three")
    told = run(three, jobs=2)
    assert told[:2] == ["+one", "+two"]
    assert told[2].startswith("-")  # the third waits for one of the first
    assert told[3] == "+three"
    assert (three[0].results() or {})["mean"] == 4


def _raise(cell: Cell, threads: int) -> None:
    def fail(*_: object) -> None:
        print("said before it failed")  # noqa: T201
        raise _ERRORS[cell.label]

    setattr(workers, "fit", fail)  # noqa: B010 - the module does not export it
    _WORK(cell, threads)


_WORK = workers._work
_ERRORS = {
    "user": TrainingError("training diverged", action="lower the rate"),
    "other": ValueError("seven"),
}


def test_errors_become_reasons_with_a_log_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting(monkeypatch, _raise)
    user, other = cells(tmp_path, "user", "other")
    run([user, other])
    assert user.failure() == "training diverged"
    assert other.failure() == "ValueError: seven"
    log = other.log.read_text()
    assert "Traceback" in log
    assert "said before it failed" in log


def _wait_with_parent(cell: Cell, threads: int) -> None:
    threading.Thread(target=workers._end_with_parent, daemon=True).start()
    cell.folder.mkdir(parents=True)
    (cell.folder / "pid").write_text(str(os.getpid()))
    time.sleep(100)


def _compare(folder: Path) -> None:
    workers._CONTEXT = multiprocessing.get_context("fork")  # type: ignore[assignment]
    workers._work = _wait_with_parent
    run(cells(folder, "waits"))


def test_a_killed_comparison_leaves_no_process_behind(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("forkserver").Process(target=_compare, args=(tmp_path,))
    parent.start()
    note = tmp_path / "cells/glue/waits-seed0/pid"
    _until(lambda: note.is_file() and note.read_text() != "")
    assert _runs(int(note.read_text()))
    parent.kill()
    parent.join()
    _until(lambda: not _runs(int(note.read_text())))


def test_an_interrupt_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acting(monkeypatch, _wait_with_parent)
    note = tmp_path / "cells/glue/waits-seed0/pid"

    def interrupt(cell: Cell) -> None:
        _until(lambda: note.is_file() and note.read_text() != "")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.run_cells(cells(tmp_path, "waits"), 1, interrupt, lambda cell: None)
    assert not _runs(int(note.read_text()))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is at work; one that nobody has waited for yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
