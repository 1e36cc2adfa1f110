"""The conformance suite of executors."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peml.config.model import RunConfig
from peml.execution.executor import Executor, Report, run_jobs
from peml.execution.job import Job
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings
from peml.locks import lock_folder
from peml.run.pipeline import fit

Told = tuple[str, int, float]
"""Name of a job, training step, mean development metric."""


@dataclass(frozen=True)
class _Outcome:
    """What became of jobs that ran together.

    Attributes:
        jobs: By name.
        reports: In the order in which they came.
        ended: Names, in the order in which they ended.
        refused: Whether one job more than the capacity was refused.
    """

    jobs: dict[str, Job]
    reports: list[Told]
    ended: list[str]
    refused: bool


class _Enough(Exception):
    pass


class ExecutorSuite:
    """What every executor has to fulfil. Subclass it in a test file::

        @pytest.fixture(scope="module")
        def config() -> RunConfig: ...  # of a run of seconds with three evaluations or more

        class TestMine(ExecutorSuite):
            @pytest.fixture(scope="class")
            @classmethod
            def settings(cls) -> ExecutionSettings: ...

    A run has to get as many threads as this process has, so that sums come out the same to the
    last bit.
    """

    @classmethod
    def executor(cls, settings: ExecutionSettings, report: Report | None) -> Executor:
        """The executor under test."""
        return make_executor(settings, report)

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The run as it comes out without an executor."""
        folder = tmp_path_factory.mktemp("whole") / "run"
        fit(config, folder)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def outcome(
        cls,
        settings: ExecutionSettings,
        config: RunConfig,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> _Outcome:
        """One job runs to its end, one is stopped at its second evaluation, one can't start."""
        top = tmp_path_factory.mktemp("jobs")
        lost = config.model.model_copy(update={"name": str(top / "nowhere")})
        broken = config.model_copy(update={"model": lost})
        configs = {"whole": config, "stopped": config, "broken": broken}
        jobs = {name: Job(name, top / name, each) for name, each in configs.items()}
        jobs["whole"].fail("from an earlier attempt")
        reports: list[Told] = []

        def report(job: Job, step: int, value: float) -> bool:
            reports.append((job.name, step, value))
            return job.name == "stopped" and len(_of("stopped", reports)) == 2

        ended: list[str] = []
        refused = []
        with cls.executor(settings, report) as executor:

            def started(job: Job) -> None:
                running = len(started_names) - len(ended)
                started_names.append(job.name)
                if running + 1 == executor.capacity:
                    with pytest.raises(RuntimeError, match="wait for one"):
                        executor.submit(Job("extra", top / "extra", config))
                    refused.append(job.name)

            started_names: list[str] = []
            run_jobs(executor, list(jobs.values()), started, lambda job: ended.append(job.name))
        return _Outcome(jobs, reports, ended, bool(refused))

    def test_a_run_comes_out_as_it_does_here(self, outcome: _Outcome, whole: Path) -> None:
        """The executor changes nothing about the run, and its earlier failure is void."""
        job = outcome.jobs["whole"]
        assert job.is_finished
        assert job.failure() is None
        assert _content(job.folder) == _content(whole)
        assert not job.log.exists()
        assert not job.record.exists()

    def test_every_evaluation_is_reported(self, outcome: _Outcome, whole: Path) -> None:
        """In order, with the numbers of the run's own log."""
        assert _of("whole", outcome.reports) == _evaluations(whole)

    def test_a_report_stops_a_run(self, outcome: _Outcome, whole: Path) -> None:
        """It ends at that evaluation, is neither finished nor failed, and can be gone on with."""
        job, evaluations = outcome.jobs["stopped"], _evaluations(whole)
        assert _of("stopped", outcome.reports) == evaluations[:2]
        pruned = job.pruned()
        assert pruned is not None
        assert (pruned.step, pruned.value) == evaluations[1]
        assert not job.is_finished
        assert job.is_settled
        assert job.failure() is None
        fit(job.config, job.folder)
        assert job.pruned() is None
        assert _content(job.folder) == _content(whole)

    def test_what_fails_says_why_and_the_rest_goes_on(self, outcome: _Outcome) -> None:
        """The reason is the problem of the error, with a traceback in the log beside it."""
        job = outcome.jobs["broken"]
        assert sorted(outcome.ended) == sorted(outcome.jobs)
        assert "nowhere" in str(job.failure())
        assert "Traceback" in job.log.read_text(encoding="utf-8")
        assert not job.is_finished

    def test_the_capacity_is_held(self, outcome: _Outcome) -> None:
        """A job too many is refused, and leaves nothing behind."""
        assert outcome.refused
        assert not outcome.jobs["whole"].folder.with_name("extra").exists()

    def test_what_is_closed_can_be_gone_on_with(
        self, settings: ExecutionSettings, config: RunConfig, whole: Path, tmp_path: Path
    ) -> None:
        """Nobody is at work in the folder any more, and it holds what was done so far."""
        job = Job("closed", tmp_path / "closed", config)

        def report(job: Job, step: int, value: float) -> bool:
            if (step, value) == _evaluations(whole)[1]:
                raise _Enough
            return False

        with self.executor(settings, report) as executor:
            executor.submit(job)
            with pytest.raises(_Enough):
                executor.wait()
        assert not job.is_settled
        assert list(job.folder.glob("checkpoints/step-*"))
        with lock_folder(job.folder):
            pass
        fit(job.config, job.folder)
        assert _content(job.folder) == _content(whole)
        assert executor.wait() == []

    def test_a_killed_worker_goes_on_from_its_checkpoint(
        self, settings: ExecutionSettings, config: RunConfig, whole: Path, tmp_path: Path
    ) -> None:
        """One death is made good; the evaluation it was killed at is told again."""
        if settings.kind == "inline":
            pytest.skip("its worker is this process")
        job = Job("killed", tmp_path / "killed", config)
        reports: list[Told] = []

        def report(job: Job, step: int, value: float) -> bool:
            reports.append((job.name, step, value))
            if len(reports) == 2:
                os.kill(_worker_in(job.folder), signal.SIGKILL)
            return False

        once = settings.model_copy(update={"retries": 1})
        with self.executor(once, report) as executor:
            executor.submit(job)
            assert executor.wait() == [job]
        assert job.is_finished
        assert _content(job.folder) == _content(whole)
        evaluations = _evaluations(whole)
        assert _of("killed", reports) == [*evaluations[:2], *evaluations[1:]]


def _worker_in(folder: Path) -> int:
    """The process that holds the lock of a run folder."""
    inode = str((folder / ".lock").stat().st_ino)
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            return int(words[4])
    raise AssertionError(f"nobody is at work in {folder}")


def _of(name: str, reports: list[Told]) -> list[tuple[int, float]]:
    return [(step, value) for told, step, value in reports if told == name]


def _evaluations(folder: Path) -> list[tuple[int, float]]:
    """Steps and means of a run's log."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    return [(line["step"], line["mean"]) for line in told if line["kind"] == "development"]


def _content(folder: Path) -> dict[str, Any]:
    """What a run came to, without times and places."""
    files = [folder / "metrics.jsonl", *sorted(folder.glob("model/**/*.safetensors"))]
    found: dict[str, Any] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found | {"tasks": results["tasks"], "mean": results["mean"]}
