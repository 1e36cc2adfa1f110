"""A real PostgreSQL server, started for the test where its programs are found."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peml.records.study import TrialRecord
from peml.tuning.ledger import Ledger
from peml.tuning.settings import StudyConfig
from peml.tuning.storage import Patience
from tests.tuning.studies import made_up

pytestmark = pytest.mark.skipif(
    shutil.which("initdb") is None or shutil.which("pg_ctl") is None,
    reason="PostgreSQL's initdb and pg_ctl are not on the path",
)
SPENT: dict[str, Any] = {"seconds": 2.0, "tokens": 100, "parameters": 10}


@dataclass
class Server:
    """A server in a folder of its own, run by a user it accepts (never root)."""

    folder: Path
    port: int

    def call(self, *words: object) -> None:
        command = [str(word) for word in words]
        user = None
        if os.getuid() == 0:
            user = "postgres"
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=self.folder)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        log = self.folder / "log"
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("psycopg")
    folder = Path(os.path.realpath(f"/tmp/peml-postgres-{os.getpid()}"))
    if os.getuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("no user `postgres`, and the server refuses root")
        folder.mkdir()
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    else:
        folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(folder, port)
    try:
        server.call("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def open_ledger(server: Server, name: str, driver: str, **sections: object) -> Ledger:
    config: StudyConfig = made_up(
        name=name, storage={"url": server.url, "wait": 60}, sampler={"startup": 3}, **sections
    )
    console = Console(quiet=True)
    return Ledger(config, Path("unused"), driver, Patience(config.storage, console))


def test_drivers_in_threads_share_a_study(server: Server) -> None:
    drawn: dict[str, list[TrialRecord]] = {"one": [], "two": []}

    def work(driver: str) -> None:
        book = open_ledger(server, "shared", driver, budget={"trials": 12})
        while trial := book.begin():
            drawn[driver].append(trial)
            book.report(trial.number, 50, 0.25)
            book.settle(
                TrialRecord(
                    number=trial.number, state="finished", objectives=[trial.number / 10], **SPENT
                ),
                Path(),
            )

    threads = [threading.Thread(target=work, args=(driver,)) for driver in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = open_ledger(server, "shared", "one", budget={"trials": 12}).rows()
    assert [row.state for row in rows] == ["finished"] * 12
    by_number = {t.number: driver for driver, trials in drawn.items() for t in trials}
    assert {row.number: row.driver for row in rows} == by_number
    assert all(row.objectives == [row.number / 10] for row in rows)


def test_a_server_that_goes_away_and_comes_back_loses_nothing(server: Server) -> None:
    book = open_ledger(server, "away", "one")
    before = book.begin()
    server.stop()
    found: list[TrialRecord | None] = []
    waiting = threading.Thread(target=lambda: found.append(book.begin()))
    waiting.start()
    time.sleep(1.0)
    assert waiting.is_alive()
    server.start()
    waiting.join(60)
    assert found[0] is not None
    assert before is not None
    assert open_ledger(server, "away", "one").unfinished() == [before, found[0]]
