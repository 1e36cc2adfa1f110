"""Processes of jobs: what dies is written down, the rest goes on, none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.config.loading import parse_config
from peml.errors import TrainingError
from peml.execution import processes
from peml.execution import work as working
from peml.execution.executor import run_jobs
from peml.execution.job import Job
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings
from peml.locks import lock_folder
from tests.comparison.quick import finish

pytestmark = pytest.mark.usefixtures("quick_processes")


def jobs_of(folder: Path, *names: str) -> list[Job]:
    config = parse_config({"tasks": {"suite": "glue"}, "method": {"name": "lora"}})
    return [Job(name, folder / "cells" / name, config) for name in names]


def acting(monkeypatch: pytest.MonkeyPatch, act: Callable[..., None]) -> None:
    """Lets the processes do something else than train."""
    monkeypatch.setattr(processes, "_work", act)


def run(todo: list[Job], **settings: Any) -> list[str]:
    """Runs jobs and returns what was told of them."""
    told: list[str] = []
    with make_executor(ExecutionSettings(**settings)) as executor:
        run_jobs(
            executor,
            todo,
            lambda job: told.append(f"+{job.name}"),
            lambda job: told.append(f"-{job.name}"),
        )
    return told


def _act(packed: dict[str, Any], threads: int, *_: object) -> None:
    job = Job.unpack(packed)
    if job.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "leaves":
        os._exit(3)
    time.sleep(0.2)
    finish(job.folder, {}, {"threads": threads})


def test_a_process_that_dies_is_written_down_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting(monkeypatch, _act)
    dies, leaves, works = jobs_of(tmp_path, "dies", "leaves", "works")
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
    three = jobs_of(tmp_path, "one", "two", "three")
    told = run(three, jobs=2)
    assert told[:2] == ["+one", "+two"]
    assert told[2].startswith("-")  # the third waits for one of the first
    assert "+three" in told[3:5]  # on a busy machine both may have ended by then
    results = three[0].results()
    assert results is not None
    assert results.mean == 4


def _raise(packed: dict[str, Any], threads: int, *_: object) -> None:
    job = Job.unpack(packed)

    def fail(*_: object, **__: object) -> None:
        print("said before it failed")  # noqa: T201
        raise _ERRORS[job.name]

    setattr(working, "fit", fail)  # noqa: B010 - the module does not export it
    _WORK(packed, threads, None, dict(os.environ))


_WORK = processes._work
_ERRORS = {
    "user": TrainingError("training diverged", action="lower the rate"),
    "other": ValueError("seven"),
}


def test_errors_become_reasons_with_a_log_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting(monkeypatch, _raise)
    user, other = jobs_of(tmp_path, "user", "other")
    run([user, other])
    assert user.failure() == "training diverged"
    assert other.failure() == "ValueError: seven"
    log = other.log.read_text()
    assert "Traceback" in log
    assert "said before it failed" in log


def _wait_with_parent(packed: dict[str, Any], threads: int, *_: object) -> None:
    job = Job.unpack(packed)
    threading.Thread(target=processes._end_with_parent, daemon=True).start()
    job.folder.mkdir(parents=True)
    (job.folder / "pid").write_text(str(os.getpid()))
    time.sleep(100)


def _compare(folder: Path) -> None:
    processes._CONTEXT = multiprocessing.get_context("fork")
    setattr(processes, "_work", _wait_with_parent)  # noqa: B010 - of other arguments
    run(jobs_of(folder, "waits"))


def test_a_killed_comparison_leaves_no_process_behind(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("forkserver").Process(target=_compare, args=(tmp_path,))
    parent.start()
    note = tmp_path / "cells/waits/pid"
    _until(lambda: note.is_file() and note.read_text() != "")
    assert _runs(int(note.read_text()))
    parent.kill()
    parent.join()
    _until(lambda: not _runs(int(note.read_text())))


def test_an_interrupt_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acting(monkeypatch, _wait_with_parent)
    note = tmp_path / "cells/waits/pid"

    def interrupt(job: Job) -> None:
        _until(lambda: note.is_file() and note.read_text() != "")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), make_executor(ExecutionSettings()) as executor:
        run_jobs(executor, jobs_of(tmp_path, "waits"), interrupt, lambda job: None)
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


def test_a_worker_waits_for_the_one_before_it_to_end(tmp_path: Path) -> None:
    [job] = jobs_of(tmp_path, "one")  # fails for want of data, once the folder is free
    with lock_folder(job.folder):
        thread = threading.Thread(target=working.work, args=(job,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join()
    assert "another process" not in str(job.failure())
    assert job.failure()
