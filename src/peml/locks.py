"""Locks folders in which one process may work at a time."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from peml.errors import RunError
from peml.files import disk_errors

LOCK = ".lock"
_PAUSE = 0.05  # seconds between two tries to get a lock


@contextmanager
def lock_folder(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Makes a folder and keeps other processes out of it.

    A killed process loses its lock. If the block ends in an error, the lock file and the folders
    made for it are removed unless they have content, so that a failed start leaves nothing behind.
    `wait` is the number of seconds to wait for another process in the folder.

    Raises:
        RunError: Another process is at work in the folder, or it can't be made.
    """
    lock = path / LOCK
    deadline = time.monotonic() + wait
    while True:
        made = [*takewhile(lambda place: not place.exists(), (lock, path, *path.parents))]
        with disk_errors(path):
            file = _take(lock)
        if file is not None:
            break
        if time.monotonic() >= deadline and lock.exists():
            raise RunError(
                f"another process is working in {path}",
                action="wait for it, or choose another --output",
            )
        time.sleep(_PAUSE)
    try:
        yield
    except BaseException:
        _remove(made)  # while it is locked
        raise
    finally:
        os.close(file)


def _take(lock: Path) -> int | None:
    """The open and locked file; None if another process has it, or has just removed it."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        return None
    is_ours = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that is no longer there would keep nobody out.
        is_ours = os.path.samestat(os.fstat(file), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if not is_ours:
            os.close(file)
    return file if is_ours else None


def _remove(made: Sequence[Path]) -> None:
    """Removes a lock and the folders around it, up to the first that isn't empty."""
    with suppress(OSError):
        for place in made:
            place.rmdir() if place.is_dir() else place.unlink()
