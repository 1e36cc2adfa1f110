"""The part of a job on a Ray cluster that runs on the machine that trains it."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peml.execution.job import Job
from peml.execution.work import print_to, work

_PATIENCE = 60.0  # seconds until a file that was written elsewhere is seen here


def mark_of(job: Job) -> Path:
    """A file with the executor's token, by which a worker checks that it sees the same disk."""
    return job.folder.with_name(f".{job.folder.name}.driver")


def appears(seen: Callable[[], bool]) -> bool:
    """Waits for a file that another machine has written, since shared disks may lag behind."""
    deadline = time.monotonic() + _PATIENCE
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def train_remotely(
    packed: dict[str, Any], directory: str, token: str, threads: int, reports: Any
) -> str | None:
    """Trains one job, in a process of its own.

    Relative paths in the config start at `directory`, where the command was called. `token` is
    that of the file beside the job's folder, `reports` a handle of the `Mailbox` or None.

    Returns:
        Name of this machine if it doesn't see the job's folder; else None.
    """
    job = Job.unpack(packed)
    mark = mark_of(job)
    if not Path(directory).is_dir() or not appears(
        lambda: mark.is_file() and mark.read_text(encoding="utf-8") == token
    ):
        return socket.gethostname()
    mark.unlink(missing_ok=True)  # here, so that a driver that is killed leaves none
    os.chdir(directory)
    torch.set_num_threads(threads)
    print_to(job.log)

    import ray

    def stops(step: int, value: float) -> bool:
        return bool(ray.get(reports.ask.remote(packed["folder"], step, value)))

    work(job, None if reports is None else stops)
    return None
