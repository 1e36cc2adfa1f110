"""A folder that one process at a time works in: of a run, a study or a comparison."""

from __future__ import annotations

import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from peml.errors import RunError
from peml.files import disk_errors

ConfigT = TypeVar("ConfigT")

_LOCK = ".lock"
_PAUSE = 0.05  # seconds between two tries to get a lock


class WorkFolder(ABC, Generic[ConfigT]):
    """What a command begins in a folder, and goes on with when it is called again.

    What is in it may be read and written once `locked`. The config is written last when work is
    begun, so a folder without one is a new folder.

    Args:
        path: The folder; made by `locked`, not here.
    """

    noun: ClassVar[str]
    """Such a folder, in messages."""
    command: ClassVar[str]
    """What makes one."""
    held: ClassVar[str]
    """What is in one that was begun with another config."""
    unchanged: ClassVar[str]
    """What a config may differ in."""
    config_file: ClassVar[str]
    """Name of the config."""
    before_config: ClassVar[str]
    """Name of the file that is written before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_started(self) -> bool:
        """Whether work was begun here."""
        return (self.path / self.config_file).is_file()

    def holds(self, config: ConfigT) -> bool:
        """Whether the work of this config was begun here; False for a new or empty folder.

        Raises:
            RunError: The folder holds something else, or work of another config.
        """
        self._refuse_file()
        there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        if self.config_file in there:
            changed = self._changed(config)
            if changed:
                raise RunError(
                    f"{self.path} holds {self.held}: {changed}",
                    allowed=self.unchanged,
                    action=self._advice(changed),
                )
            return True
        first = self.before_config
        if there - {_LOCK, first, f".{first}.partial", f".{self.config_file}.partial"}:
            raise self._is_something_else()
        return False

    @abstractmethod
    def _changed(self, config: ConfigT) -> str:
        """In what a config differs from the one of the folder; empty if in nothing that counts."""

    def _advice(self, changed: str) -> str:
        """What to do about a changed config."""
        return "choose another --output, or undo the change; nothing was changed"

    def locked(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """Makes the folder and keeps other processes out of it, see `lock_folder`.

        Raises:
            RunError: Also where the path is a file.
        """
        self._refuse_file()
        return lock_folder(self.path, wait)

    def _refuse_file(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise self._is_something_else()

    def _is_something_else(self) -> RunError:
        return RunError(
            f"{self.path} exists and is no {self.noun}",
            allowed=f"a new folder, or one that an earlier `{self.command}` made",
            action="choose another --output; nothing was changed",
        )


@contextmanager
def lock_folder(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Makes a folder and keeps other processes out of it.

    The lock of a process that is killed is gone with it. When the block ends in an error, the lock
    file and the folders made for it are removed, unless something is in them: what can't work
    leaves nothing behind.

    Args:
        path: The folder.
        wait: Seconds to wait for another process that is at work in it.

    Raises:
        RunError: Another process is at work in the folder, or it can't be made.
    """
    lock = path / _LOCK
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
    """Removes a lock and the folders around it, up to the first that holds something."""
    with suppress(OSError):
        for place in made:
            place.rmdir() if place.is_dir() else place.unlink()
