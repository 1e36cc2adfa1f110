"""Two processes of one command in one folder, stopped at file-system events, one of them killed.

A process counts the events in the folder that Python's audit hooks tell of (files opened, folders
made, names changed or removed, locks taken) and stops itself right before a chosen one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.apart import fresh_processes

_EVENTS = {
    "open": 1,
    "fcntl.flock": 1,
    "os.listdir": 1,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.scandir": 1,
    "os.truncate": 1,
}
"""Audit event: how many of its arguments are places."""
_MOST_SECONDS = 120
_REFUSED = "another process is working in"

# What is measured, and what says where and by whom, differs from one run to another.
_MEASURED = {"seconds", "peak_memory_bytes", "latency", "milliseconds", "id", "place", "state.json"}
_NOT_COMPARED = {".lock", "study.journal", "trials.csv", "tables", "tensorboard", "figures"}


class Started:
    """A process of a command.

    Args:
        words: After ``peml``.
        folder: The folder whose events count.
        stop: Number of the event before which the process stops, from 1; None: at none.
    """

    def __init__(self, words: list[str], folder: Path, stop: int | None = None) -> None:
        number = len(list(folder.parent.glob("*.events")))
        self._events = folder.parent / f"{number}.events"
        self._said = folder.parent / f"{number}.said"
        self._events.touch()
        environment = {"PEML_CACHE": os.environ["PEML_CACHE"], "COLUMNS": "200"}
        self._process: ForkServerProcess = fresh_processes().Process(
            target=_peml, args=(environment, words, folder, stop, self._events, self._said)
        )
        self._process.start()

    @property
    def events(self) -> list[str]:
        """The events so far."""
        return self._events.read_text(encoding="utf-8").splitlines()

    @property
    def said(self) -> str:
        """What it printed."""
        return self._said.read_text(encoding="utf-8")

    def until_stopped(self) -> bool:
        """Waits until the process has stopped or ended; whether it stopped."""
        deadline = time.monotonic() + _MOST_SECONDS
        while self._process.is_alive():
            if _state(self._process.pid) == "T":
                return True
            assert time.monotonic() < deadline, self.said
            time.sleep(0.005)
        return False

    def kill(self) -> None:
        """Ends it by SIGKILL, unless it has ended."""
        self._process.kill()
        self._process.join()

    def end(self) -> int:
        """Lets it go on and returns its exit code."""
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGCONT)
        self._process.join(_MOST_SECONDS)
        if self._process.is_alive():
            self.kill()
            raise AssertionError(f"no end after {_MOST_SECONDS} seconds: {self.said}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def was_refused(self) -> bool:
        """Whether it ended because of the other process."""
        return self._process.exitcode == 2 and _REFUSED in self.said


def _state(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _peml(
    environment: dict[str, str],
    words: list[str],
    folder: Path,
    stop: int | None,
    events: Path,
    said: Path,
) -> None:
    """The process itself."""
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    log = os.open(events, os.O_WRONLY)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        places = _EVENTS.get(event, 0)
        found = [_within(folder, place) for place in arguments[:places]]
        if not places or all(place is None for place in found):
            return
        count += 1
        os.write(log, f"{event} {' '.join(filter(None, found))}\n".encode())
        if count == stop:
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)
    from peml.cli import main

    main(words)


def _within(folder: Path, place: Any) -> str | None:
    """A path below a folder, or None; an open file's by its number."""
    if isinstance(place, int):
        try:
            place = Path(f"/proc/self/fd/{place}").readlink()
        except OSError:
            return None
    path = os.path.abspath(os.fsdecode(place))  # noqa: PTH100 - not resolved
    whole = str(folder)
    return os.path.relpath(path, whole) if f"{path}/".startswith(f"{whole}/") else None


@dataclass(frozen=True)
class Command:
    """A command that was carried out once, undisturbed.

    Attributes:
        words: After ``peml``; the folder comes last.
        folder: What it made.
        events: The file-system events in it.
    """

    words: list[str]
    folder: Path
    events: list[str]

    @classmethod
    def carried_out(cls, words: list[str], folder: Path) -> Command:
        """Runs it."""
        started = Started([*words, str(folder)], folder)
        assert started.end() == 0, started.said
        return cls(words, folder, started.events)

    def before(self, file: str) -> int:
        """Number of the first event that opens, locks or names a file."""
        return next(
            number
            for number, event in enumerate(self.events, start=1)
            if event in (f"open {file}", f"fcntl.flock {file}")
            or (event.startswith("os.rename ") and event.endswith(f" {file}"))
        )


def disturb(command: Command, folder: Path, stops: tuple[int, int], *, kill_first: bool) -> None:
    """Starts a command twice on a new folder, kills one process, and calls it again.

    Args:
        command: The command.
        folder: The new folder.
        stops: The event at which either process is stopped until the other is started.
        kill_first: Whether the process that started first is killed, or the second.

    Raises:
        AssertionError: A process ended in another way than well or refused, a refused one changed
            something, or the folder isn't what it is undisturbed.
    """
    words = [*command.words, str(folder)]
    first = Started(words, folder, stops[0])
    assert first.until_stopped(), first.said
    before = _snapshot(folder)
    second = Started(words, folder, stops[1])
    if not second.until_stopped() and second.end() != 0:
        assert second.was_refused, second.said
        assert _snapshot(folder) == before
    killed, other = (first, second) if kill_first else (second, first)
    killed.kill()
    assert other.end() == 0 or other.was_refused, other.said
    again = Started(words, folder)
    assert again.end() == 0, again.said
    found, expected = content(folder), content(command.folder)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def _snapshot(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    files = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in files}


def content(folder: Path) -> dict[str, Any]:
    """Everything a command made, without what is measured; reports and cards by name."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        place = path.relative_to(folder)
        if path.is_file() and not _NOT_COMPARED & set(place.parts):
            found[str(place)] = _meaning(path)
    return found


def _meaning(path: Path) -> Any:
    if path.name.startswith(("report.", "README.")):
        return None
    if path.suffix == ".json":
        return _without_measured(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".yaml":
        return _without_measured(yaml.safe_load(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_measured(v) for key, v in value.items() if key not in _MEASURED}
    if isinstance(value, list):
        return [_without_measured(item) for item in value]
    return repr(value) if isinstance(value, float) else value  # NaN is not equal to itself
