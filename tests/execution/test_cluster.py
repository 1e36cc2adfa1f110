"""Jobs on a Ray cluster: what is lost goes on elsewhere, what can't work is said early."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.config.model import RunConfig
from peml.errors import RunError
from peml.execution import remote
from peml.execution.cluster import RayExecutor
from peml.execution.job import Job
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings
from peml.locks import lock_folder
from peml.run.pipeline import fit
from tests.e2e.apart import run_apart
from tests.execution.quick import drive, quick_run
from tests.execution.suite import ExecutorSuite

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(toys: Path) -> RunConfig:
    return quick_run(toys)


@pytest.fixture(scope="module")
def cluster(toys: Path) -> Iterator[Any]:
    """A cluster of this machine alone, told that it has more cores than it has."""
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 4, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    yield cluster
    cluster.shutdown()


def on(cluster: Any, **settings: Any) -> ExecutionSettings:
    threads = torch.get_num_threads()
    return ExecutionSettings(kind="ray", address=cluster.address, cpus=threads, **settings)


class TestRay(ExecutorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, cluster: Any) -> ExecutionSettings:
        return on(cluster, jobs=2)


def test_a_killed_driver_leaves_a_folder_to_go_on_with(
    toys: Path, config: RunConfig, tmp_path: Path
) -> None:
    """Its local cluster ends with it: nobody is left in the folder, and nothing is lost."""
    folder = tmp_path / "run"
    assert run_apart(drive, str(toys), str(folder)) == -signal.SIGKILL
    _until(lambda: _is_free(folder))
    assert list(folder.glob("checkpoints/step-*"))
    assert not (folder / "results.json").exists()
    assert fit(config, folder).results.cost.steps == {"train": 18}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_free(folder: Path) -> bool:
    try:
        with lock_folder(folder):
            return True
    except RunError:
        return False


def test_a_machine_that_does_not_see_the_folder_is_named(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RayExecutor(ExecutionSettings(kind="ray"))
    monkeypatch.setattr(executor._ray, "get", lambda task: "node7")  # what its worker answers
    with pytest.raises(RunError, match=rf"node7 does not see .* or {tmp_path} of ") as caught:
        executor._reason_of_death(None, Job("a", tmp_path / "a", config))
    assert "that all machines of the cluster share" in str(caught.value)


def test_a_folder_of_another_disk_is_not_taken_for_the_drivers(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0)
    job = Job("a", tmp_path / "a", config)
    assert remote.train_remotely(job.packed(), str(tmp_path), "1234", 1, None) is not None
    remote.mark_of(job).write_text("5678")
    assert remote.train_remotely(job.packed(), str(tmp_path), "1234", 1, None) is not None
    assert not job.folder.exists()


def test_a_cluster_that_is_not_there_is_named(config: RunConfig, tmp_path: Path) -> None:
    settings = ExecutionSettings(kind="ray", address="nonsense")
    with (
        pytest.raises(RunError, match="can't use the Ray cluster nonsense"),
        make_executor(settings) as executor,
    ):
        executor.submit(Job("a", tmp_path / "a", config))


def test_a_cluster_whose_token_is_not_here_is_named(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RayExecutor(ExecutionSettings(kind="ray", address="127.0.0.1:1"))

    def init(*_: Any, **__: Any) -> None:
        raise executor._ray.exceptions.AuthenticationError("no token")

    monkeypatch.setattr(executor._ray, "init", init)
    with pytest.raises(RunError, match=r"127\.0\.0\.1:1: no token") as refused:
        executor.submit(Job("a", tmp_path / "a", config))
    assert "RAY_AUTH_MODE=token" in str(refused.value)


def test_more_than_this_machine_has_is_refused() -> None:
    executor = RayExecutor(ExecutionSettings(kind="ray", cpus=3, gpus=0.5))
    with pytest.raises(RunError, match="a run asks for 3 CPUs, and this machine has 2"):
        executor._check_resources({"CPU": 2, "GPU": 1})
    with pytest.raises(RunError, match=r"a run asks for 0\.5 GPUs, and this machine has 0"):
        executor._check_resources({"CPU": 3})
    executor._check_resources({"CPU": 3, "GPU": 0.5})
