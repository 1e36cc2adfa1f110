"""A Ray cluster of two nodes, started by the commands of the guide, of which one is killed.

Minutes, so `make test-ray` runs it. Both nodes are processes of this machine.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from peml.records.comparison import ComparisonRecord
from peml.records.study import StudyRecord
from tests.comparison.quick import comparison_file
from tests.e2e.ranks import run_files
from tests.e2e.toy import METHODS, Row, toy_config
from tests.tuning.studies import study_file

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)]

_RAY = str(Path(sys.executable).with_name("ray"))
_PATIENCE = 420.0  # seconds
_NODE = ("--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
_LONG: Row = {"training": {"epochs": 6, "evaluate_every": 5, "checkpoint_every": 5}}
_RANDOM: Row = {"name": "random", "seed": 7}


@dataclass(frozen=True)
class Cluster:
    """Two nodes of one core each: the head and one that joined it.

    Attributes:
        environment: Of every command, with the token's place.
    """

    address: str
    environment: dict[str, str]
    second: psutil.Popen

    def peml(self, *words: object, log: Path) -> subprocess.Popen[bytes]:
        """Begins a command."""
        command = [sys.executable, "-m", "peml", *map(str, words)]
        with log.open("wb") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env=self.environment)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Started as the guide says; paths of sockets have to be short, so all is below /tmp."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "RAY_AUTH_MODE": "token",
            "RAY_worker_niceness": "0",  # else 15, and nothing moves beside other work
            "RAY_AUTH_TOKEN_PATH": f"{folder}/.ray/auth_token",
        }
        generated = [_RAY, "get-auth-token", "--generate"]
        subprocess.run(
            generated, env=os.environ | {"HOME": folder}, capture_output=True, check=True
        )
        address = f"127.0.0.1:{_port()}"
        port = address.partition(":")[2]
        place = (f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        nodes = [_start(environment, "--head", *place)]
        try:
            _until(lambda: _count(environment, address) == 1)
            nodes.append(_start(environment, f"--address={address}"))
            _until(lambda: _count(environment, address) == 2)
            yield Cluster(address, environment, nodes[1])
        finally:
            for node in nodes:
                _kill(node)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(environment: dict[str, str], *words: str) -> psutil.Popen:
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return psutil.Popen([_RAY, "start", *words, *_NODE], env=environment, **quiet)


def _count(environment: dict[str, str], address: str) -> int:
    """Nodes of the cluster."""
    command = [_RAY, "status", f"--address={address}"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return run.stdout.count("1 node_")


def _kill(node: psutil.Popen) -> None:
    """As when its machine loses power: no process of it survives."""
    if node.is_running():
        for process in [node, *node.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _succeeds(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.wait(_PATIENCE) == 0, log.read_text()


def _trained_by(node: psutil.Popen, folders: list[Path]) -> list[Path]:
    """Run folders that have a checkpoint and are being trained by a process of the node."""
    begun = [folder for folder in folders if any(folder.glob("checkpoints/step-*"))]
    workers = node.children(recursive=True) if begun else []
    held = {Path(file.path).parent for worker in workers for file in _files(worker)}
    return [folder for folder in begun if folder in held]


def _files(worker: psutil.Process) -> list[Any]:
    try:
        return list(worker.open_files())
    except psutil.NoSuchProcess:  # it has just ended
        return []


def test_a_comparison_ends_right_when_a_node_is_killed(
    cluster: Cluster, toys: Path, tmp_path: Path
) -> None:
    run = yaml.safe_load(toy_config(toys, "encoder", "lora", **_LONG).read_text())
    del run["method"]
    methods = {"lora": METHODS["lora"], "lora+prefix": METHODS["lora+prefix"]}
    config = comparison_file(toys, tmp_path / "compare.yaml", methods, run=run, seeds=[0])
    log, two, one = tmp_path / "ray.log", tmp_path / "two", tmp_path / "one"
    ray = ("--executor", "ray", "--address", cluster.address, "--jobs", 2)
    driver = cluster.peml("compare", config, "--output", two, *ray, log=log)
    cells = [two / "cells/toy" / f"{name}-seed0" for name in methods]
    _until(lambda: bool(_trained_by(cluster.second, cells)) or driver.poll() is not None)
    lost = _trained_by(cluster.second, cells)
    assert len(lost) == 1, log.read_text()
    _kill(cluster.second)
    assert not (lost[0] / "results.json").exists()
    _succeeds(driver, log)
    inline = cluster.peml("compare", config, "--output", one, "--executor", "inline", log=log)
    _succeeds(inline, log)
    for cell in cells:
        assert run_files(cell) == run_files(one / cell.relative_to(two)), cell
    found = [_scores(ComparisonRecord.read(folder)) for folder in (two, one)]
    assert [state for state, *_ in found[1]] == ["finished"] * 2
    assert found[0] == found[1]


def _scores(record: ComparisonRecord) -> list[tuple[Any, ...]]:
    return [
        (cell.status, row.label, cell.seed, cell.flags, cell.mean, cell.tasks, cell.steps)
        for suite in record.suites
        for row in suite.rows
        for cell in row.cells
    ]


def test_a_study_whose_driver_is_killed_goes_on(
    cluster: Cluster, toys: Path, tmp_path: Path
) -> None:
    run = yaml.safe_load(toy_config(toys, "encoder", "lora", **_LONG).read_text())
    top = {"run": run, "budget": {"trials": 3}, "sampler": _RANDOM}
    config = study_file(toys, tmp_path / "study.yaml", **top)
    log, two, one = tmp_path / "ray.log", tmp_path / "two", tmp_path / "one"
    words = ("tune", config, "--output", two, "--executor", "ray", "--address", cluster.address)
    driver = cluster.peml(*words, "--jobs", 2, log=log)
    _until(lambda: _finished(two) >= 1 or driver.poll() is not None)
    assert driver.poll() is None, log.read_text()
    driver.kill()
    driver.wait()
    begun = _finished(two)
    assert begun < 3
    _succeeds(cluster.peml(*words, "--jobs", 2, log=log), log)
    _succeeds(cluster.peml("tune", config, "--output", one, "--executor", "inline", log=log), log)
    found = [
        sorted((t.number, t.state, t.objectives, t.values) for t in StudyRecord.read(f).trials)
        for f in (two, one)
    ]
    assert [state for _, state, *_ in found[1]] == ["finished"] * 3
    assert found[0] == found[1]


def _finished(study: Path) -> int:
    return len(list(study.glob("trials/*/results.json")))
