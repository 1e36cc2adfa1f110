"""Who may work in a folder, and what is left of one in which nothing was begun."""

from __future__ import annotations

import fcntl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.errors import PemlError, RunError
from peml.locks import lock_folder
from peml.run.folder import RunFolder
from peml.run.pipeline import fit
from tests.e2e.toy import toy_config


@pytest.fixture
def config(toys: Path) -> RunConfig:
    return load_config(toy_config(toys))


def _fail_in(folder: Path, begun: str | None = None) -> None:
    with suppress(ValueError), lock_folder(folder):
        if begun is not None:
            (folder / begun).write_text("mine")
        raise ValueError


def test_what_fails_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    _fail_in(tmp_path / "runs/glue/one")
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_folders_that_were_there(tmp_path: Path) -> None:
    _fail_in(tmp_path)
    assert tmp_path.is_dir()
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_what_was_begun(tmp_path: Path) -> None:
    _fail_in(tmp_path / "run", begun="config.yaml")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_config_that_cannot_run_is_refused_under_the_lock_and_leaves_nothing(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def prepare(config: RunConfig, *_: Any) -> Any:
        with pytest.raises(RunError, match="another process"), lock_folder(tmp_path / "a/run"):
            pass
        held.append(True)
        raise RunError("no such model", action="name another")

    monkeypatch.setattr("peml.run.together.prepare", prepare)
    with pytest.raises(PemlError, match="no such model"):
        fit(config, tmp_path / "a/run")
    assert held
    assert not (tmp_path / "a").exists()


def test_a_lock_that_a_kill_left_is_no_run(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    assert not RunFolder(tmp_path).holds(config)
    RunFolder(tmp_path).create(config)
    assert RunFolder(tmp_path).holds(config)


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def late(file: int, operation: int) -> None:
        calls.append(file)
        if len(calls) == 1:  # as by a process that was refused, right after this one opened it
            (tmp_path / "run/.lock").unlink()
            (tmp_path / "run").rmdir()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        lock_folder(tmp_path / "run"),
        pytest.raises(RunError, match="another process"),
        lock_folder(tmp_path / "run"),
    ):
        pass
    assert len(calls) == 3


def test_a_lock_is_waited_for_as_long_as_is_asked(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        since = time.monotonic()
        with pytest.raises(RunError, match="another process"), lock_folder(tmp_path, wait=0.2):
            pass
        assert time.monotonic() - since >= 0.2

    taken, free = threading.Event(), threading.Event()

    def work() -> None:
        with lock_folder(tmp_path):
            taken.set()
            free.wait()

    thread = threading.Thread(target=work)
    thread.start()
    taken.wait()
    threading.Timer(0.2, free.set).start()
    with lock_folder(tmp_path, wait=60):
        assert free.is_set()
    thread.join()


def test_no_lock_is_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="can't write"), lock_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()
