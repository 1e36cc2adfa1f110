"""The server of workers as a fork of the command: it has its imports, and ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, os, sys
from peml.execution import forking

def look(pipe):
    sys.stdout.flush()
    inherited = {"imported_before", "made_first"} <= {*sys.modules}
    pipe.send((os.environ["OWN"], inherited, os.getppid()))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    os.environ["OWN"] = "of the command"
    sys.modules["imported_before"] = os
    print("printed once")
    forking.WARM = "json"
    forking.fork_server(lambda: sys.modules.update(made_first=os))
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=look, args=(theirs,))
        process.start()
        print(*ours.recv(), sep=";")
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are started anew")
def test_workers_have_the_imports_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    run = subprocess.run(command, env=kept, capture_output=True, text=True, check=True, timeout=60)
    printed, *lines = run.stdout.splitlines()
    assert printed == "printed once"
    seen = [line.split(";") for line in lines]
    assert [line[:2] for line in seen] == [["of the command", "True"]] * 2
    assert run.stderr == ""
    (server,) = {int(line[2]) for line in seen}
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):  # it is gone with the command
        os.kill(server, 0)
