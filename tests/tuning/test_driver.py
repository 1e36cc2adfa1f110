"""Whole studies of toy runs: they run, are stopped, killed and gone on with."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import peml
from peml.config.loading import load_config
from peml.errors import RunError
from peml.execution.executor import Executor, Report
from peml.execution.inline import InlineExecutor
from peml.execution.job import Job
from peml.execution.settings import ExecutionSettings
from peml.records.plan import Identity, Plan
from peml.records.run import TuningCost
from peml.run.pipeline import fit
from peml.tuning import driver
from peml.tuning.ledger import Ledger
from peml.tuning.pipeline import Tuned, tune, tune_together
from peml.tuning.settings import parse_study
from tests.e2e.apart import run_apart, start_apart
from tests.records.made_up import results_of
from tests.tuning.studies import RATE, toy_study


def _table(tuned: Tuned) -> list[dict[str, str]]:
    with (tuned.folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(tuned: Tuned) -> list[int]:
    return [trial.number for trial in tuned.study.trials]


class FakeExecutor(InlineExecutor):
    """Writes made-up results instead of training."""

    results: Callable[[Job], dict[str, Any] | str]

    def wait(self) -> list[Job]:
        job, self._job = self._job, None
        assert job is not None
        found = type(self).results(job)
        if isinstance(found, str):
            job.fail(found)
        else:
            job.folder.mkdir(parents=True)
            (job.folder / "results.json").write_text(json.dumps(found))
            (job.folder / "report.md").write_text("")
        return [job]


class CrowdedExecutor(FakeExecutor):
    """As many at a time as it may run; the first that was started ends first."""

    def __init__(self, settings: ExecutionSettings) -> None:
        super().__init__(settings)
        self.capacity, self._waiting, self.running = settings.jobs, list[Job](), list[int]()

    def _jobs(self) -> list[Job]:
        return self._waiting

    def _start(self, job: Job) -> None:
        self._waiting.append(job)

    def wait(self) -> list[Job]:
        self.running.append(len(self._waiting))
        self._job = self._waiting.pop(0)
        return super().wait()


def made_up_results(job: Job, *, tokens: int = 100) -> dict[str, Any]:
    rate = job.config.training.learning_rates["lora"]
    r = job.config.method.model_dump()["r"]
    cost: Any = {"seconds": {"train": 2.0, "evaluate": 0.5}, "tokens": {"train": tokens}}
    mean = 0.5 + 0.02 * r - 0.1 * abs(math.log10(rate) + 2)
    return results_of({"mood": mean}, rows=50, parameters=100 * r, **cost)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeExecutor]:
    """Studies whose trials are made up."""

    class Fake(FakeExecutor):
        results = staticmethod(made_up_results)

    def make(settings: Any, report: Report | None) -> Executor:
        return Fake(settings, report)

    monkeypatch.setattr(driver, "make_executor", make)
    planned = Plan(tasks=[], identity=Identity(tasks={}, model={}))
    monkeypatch.setattr("peml.tuning.pipeline.check_study", lambda config: planned)
    return Fake


def test_a_study_ends_with_a_config_that_fit_takes(toys: Path, tmp_path: Path) -> None:
    study = toy_study(toys)
    tuned = peml.tune(study, tmp_path / "study")
    table = _table(tuned)
    assert [row["state"] for row in table] == ["finished"] * 3
    best = max(table, key=lambda row: float(row["mean"]))
    assert tuned.best is not None
    config = load_config(tuned.best)
    assert config.training.learning_rates["lora"] == float(best[RATE])
    assert (config.evaluation.split, config.export) == ("reported", True)
    for row in table:
        results = json.loads((tuned.folder / row["folder"] / "results.json").read_text())
        assert results["mean"] == float(row["mean"])
        assert not (tuned.folder / row["folder"] / "model").exists()
    cost = json.loads((tuned.folder / "tuning_cost.json").read_text())
    assert cost["tokens"] == sum(int(row["tokens"]) for row in table)
    run = fit(config, tmp_path / "run")
    assert run.results.cost.tuning == TuningCost(**cost)
    again = peml.tune(parse_study(study), tmp_path / "study")
    assert _table(again) == table


def test_two_objectives_give_the_pareto_front(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path
) -> None:
    raw = toy_study(toys, objectives=["mean", "parameters"], budget={"trials": 30})
    tuned = tune(parse_study(raw), tmp_path / "study")
    points: dict[int, Any] = {t.number: t.objectives for t in tuned.study.trials}
    beaten = {
        number
        for number, (mean, size) in points.items()
        if any(m >= mean and s <= size and (m, s) != (mean, size) for m, s in points.values())
    }
    front = tuned.study.best
    assert set(front) == set(points) - beaten
    assert len(front) > 1
    assert sorted(front, key=lambda number: -points[number][0]) == front
    assert [path.stem for path in sorted((tuned.folder / "front").iterdir())] == [
        f"{number:04}" for number in sorted(front)
    ]
    assert 'aria-label="Pareto front"' in (tuned.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("budget", "trials"), [({"tokens": 250}, 3), ({"tokens": 300}, 3), ({"tokens": 301}, 4)]
)
def test_a_budget_of_tokens_ends_the_study(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path, budget: dict[str, int], trials: int
) -> None:
    raw = toy_study(toys, budget=budget)
    assert len(_numbers(tune(parse_study(raw), tmp_path / "study"))) == trials
    more = toy_study(toys, budget={"tokens": 500})
    assert len(_numbers(tune(parse_study(more), tmp_path / "study"))) == 5


def test_a_budget_of_hours_counts_all_sessions(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("peml.tuning.driver.time.monotonic", lambda: clock[0])

    def slow(job: Job) -> dict[str, Any]:
        clock[0] += 600
        return made_up_results(job)

    fake.results = staticmethod(slow)
    folder = tmp_path / "study"
    assert len(_numbers(tune(parse_study(toy_study(toys, budget={"hours": 0.5})), folder))) == 3
    assert len(_numbers(tune(parse_study(toy_study(toys, budget={"hours": 0.9})), folder))) == 6


def test_when_the_first_trials_all_fail_the_study_stops_and_says_why(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path
) -> None:
    fake.results = staticmethod(lambda job: f"no memory for {job.name}")
    study = parse_study(toy_study(toys, budget={"trials": 9}))
    with pytest.raises(
        RunError, match=r"the first 3 trials of this session all failed\. trial 0: no"
    ):
        tune(study, tmp_path / "study")
    fake.results = staticmethod(made_up_results)
    tuned = tune(study, tmp_path / "study")
    states = [trial.state for trial in tuned.study.trials]
    assert states == ["failed"] * 3 + ["finished"] * 6
    assert tuned.study.trials[0].reason == "no memory for trial 0"


def test_a_session_that_begins_with_failures_leaves_the_budget_to_another(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path
) -> None:
    """Whatever worked before: the data may be gone."""
    fake.results = staticmethod(made_up_results)
    tune(parse_study(toy_study(toys, budget={"trials": 2})), tmp_path / "study")
    fake.results = staticmethod(lambda job: "no data")
    study = parse_study(toy_study(toys, budget={"trials": 9}))
    with pytest.raises(RunError, match="of this session all failed"):
        tune(study, tmp_path / "study")
    fake.results = staticmethod(made_up_results)
    states = [trial.state for trial in tune(study, tmp_path / "study").study.trials]
    assert states == ["finished"] * 2 + ["failed"] * 3 + ["finished"] * 4


def test_a_later_trial_that_fails_is_recorded_and_the_study_goes_on(
    fake: type[FakeExecutor], toys: Path, tmp_path: Path
) -> None:
    def some(job: Job) -> dict[str, Any] | str:
        results = made_up_results(job)
        if job.name == "trial 1":
            return "no memory"
        return results | {"mean": float("nan")} if job.name == "trial 2" else results

    fake.results = staticmethod(some)
    tuned = tune(parse_study(toy_study(toys, budget={"trials": 5})), tmp_path / "study")
    trials = tuned.study.trials
    assert [t.state for t in trials] == ["finished", "failed", "failed", "finished", "finished"]
    assert [t.reason for t in trials[1:3]] == [
        "no memory",
        "its development mean is not a number",
    ]


def _halving(toys: Path) -> dict[str, Any]:
    """A study in which some trials are stopped."""
    raw = toy_study(
        toys,
        pruner={"name": "hyperband", "least": 0.3},
        budget={"trials": 6},
        sampler={"name": "random"},
    )
    raw["run"]["training"] |= {"epochs": 2, "evaluate_every": 6}
    return raw


@pytest.fixture(scope="module")
def halved(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(parse_study(_halving(toys)), tmp_path_factory.mktemp("halved") / "study")


@pytest.mark.e2e
def test_trials_that_fall_behind_are_stopped_and_cost_less(halved: Tuned) -> None:
    trials = halved.study.trials
    pruned = [trial for trial in trials if trial.state == "pruned"]
    finished = [trial for trial in trials if trial.state == "finished"]
    assert pruned
    assert finished
    whole = finished[0].tokens
    assert whole is not None
    assert all(trial.tokens is not None and 0 < trial.tokens < whole for trial in pruned)
    assert all(set(map(int, t.reports)) < set(range(101)) for t in trials)
    assert max(map(int, finished[0].reports)) == 100


def _tune_until_one_is_stopped(raw: dict[str, Any], folder: Path) -> None:
    report = Ledger.report

    def killing(self: Ledger, number: int, percent: int, mean: float) -> bool:
        if report(self, number, percent, mean):
            os.kill(os.getpid(), signal.SIGKILL)  # before the checkpoint of this evaluation
        return False

    Ledger.report = killing  # type: ignore[method-assign]
    tune(parse_study(raw), folder)


@pytest.mark.e2e
def test_a_trial_that_was_killed_as_it_was_stopped_has_cost_the_same(
    halved: Tuned, toys: Path, tmp_path: Path
) -> None:
    raw = _halving(toys)
    assert run_apart(_tune_until_one_is_stopped, raw, tmp_path / "killed") == -signal.SIGKILL
    tuned = tune(parse_study(raw), tmp_path / "killed")
    for one, other in zip(tuned.study.trials, halved.study.trials, strict=True):
        for key in ("number", "state", "objectives", "values", "tokens", "reports"):
            assert getattr(one, key) == getattr(other, key), key


def _tune(raw: dict[str, Any], folder: Path) -> None:
    tune(parse_study(raw), folder)


def _is_midway(trials: Path) -> bool:
    """Whether a trial is finished and another has a checkpoint."""
    finished = {path.parent for path in trials.glob("*/results.json")}
    begun = {path.parents[1] for path in trials.glob("*/checkpoints/step-*")}
    return bool(finished) and bool(begun - finished)


def _interrupted(toys: Path, kind: str, jobs: int) -> dict[str, Any]:
    raw = toy_study(toys, budget={"trials": 4}, execution={"kind": kind, "jobs": jobs})
    raw["run"]["training"] |= {"epochs": 3, "checkpoint_every": 2}
    # With two at a time, what TPE knows when it draws depends on which ends first.
    raw["sampler"] = {"name": "tpe" if jobs == 1 else "random", "startup": 2}
    return raw


@pytest.fixture(scope="module")
def undisturbed(
    toys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], Tuned]:
    """The same study, run inline and never killed; once for each sampler."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done: dict[str, Tuned] = {}

    def run(raw: dict[str, Any]) -> Tuned:
        sampler = raw["sampler"]["name"]
        if sampler not in done:
            study = parse_study(raw | {"execution": {"kind": "inline"}})
            done[sampler] = tune(study, folder / sampler)
        return done[sampler]

    return run


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "jobs"), [("inline", 1), ("processes", 2)])
def test_a_killed_study_goes_on_and_comes_to_the_same(
    kind: str,
    jobs: int,
    undisturbed: Callable[[dict[str, Any]], Tuned],
    toys: Path,
    tmp_path: Path,
) -> None:
    raw, killed = _interrupted(toys, kind, jobs), tmp_path / "killed"
    process = start_apart(_tune, raw, killed)
    deadline = time.monotonic() + 200
    while not _is_midway(killed / "trials") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    before = {path: path.stat().st_mtime_ns for path in (killed / "trials").glob("*/results.json")}
    assert 0 < len(before) < 4
    assert run_apart(_tune, raw, killed) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    tuned = tune(parse_study(raw), killed, report_only=True)
    whole = undisturbed(raw)
    for one, other in zip(tuned.study.trials, whole.study.trials, strict=True):
        assert one.state == other.state == "finished"
        for key in ("number", "values", "tokens", "parameters"):
            assert getattr(one, key) == getattr(other, key)
    assert [path.name for path in sorted((killed / "trials").iterdir())] == [
        f"{number:04}" for number in range(4)
    ]


def test_several_studies_leave_no_place_empty_and_their_trials_are_told_apart(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrowdedExecutor, "results", staticmethod(made_up_results), raising=False)
    raw = toy_study(toys, budget={"trials": 3})
    nothing = Identity(tasks={}, model={})
    studies = [(tmp_path / name, parse_study(raw | {"name": name}), nothing) for name in "ab"]
    executor, said = CrowdedExecutor(ExecutionSettings(jobs=2)), io.StringIO()
    tune_together(studies, executor, Console(file=said), pages=False)
    assert executor.running == [2, 2, 2, 2, 2, 1]
    starts = [line.partition(":")[0] for line in said.getvalue().splitlines() if "started" in line]
    assert starts == [f"started  {name}, trial {n}" for name in "ab" for n in range(3)]
    for folder, _, _ in studies:
        assert json.loads((folder / "study.json").read_text())["cost"]["trials"] == 3
        assert not (folder / "report.html").exists()
    tune_together(studies, executor, Console(file=said), pages=True)
    assert len(executor.running) == 6
    assert (tmp_path / "a" / "report.html").exists()
