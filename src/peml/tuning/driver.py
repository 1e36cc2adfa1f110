"""The loop of a study: draws trials, runs them and records their ends, within the budget."""

import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from peml.errors import PemlError, RunError
from peml.execution.executor import Executor
from peml.execution.job import Job
from peml.execution.making import make_executor
from peml.records.plan import Plan
from peml.records.run import Spent
from peml.records.study import TrialRecord
from peml.run.folder import RunFolder
from peml.run.state import SessionState
from peml.tuning.folder import StudyFolder
from peml.tuning.ledger import Ledger
from peml.tuning.objectives import OBJECTIVES
from peml.tuning.sampling import WHOLE
from peml.tuning.settings import StudyConfig


class Driver:
    """One session of a study.

    The study's folder is locked. `prefix` stands in front of trials' names, to tell several studies
    apart.
    """

    def __init__(
        self,
        config: StudyConfig,
        folder: StudyFolder,
        ledger: Ledger,
        console: Console,
        prefix: str = "",
    ) -> None:
        self._config = config
        self._folder = folder
        self._ledger = ledger
        self._console = console
        self._prefix = prefix
        self._waiting = deque(ledger.unfinished())
        self._running: dict[str, TrialRecord] = {}  # by the job's name
        self._before = folder.driver().seconds
        self._since = time.monotonic()
        self._worked = False  # in this session
        self._reasons: list[str] = []

    def executor(self) -> Executor:
        """The executor that the settings name; trials report to it only if there is a pruner."""
        report = None if self._config.pruner.name == "none" else self._report
        return make_executor(self._config.execution, report)

    @property
    def is_open(self) -> bool:
        """Whether a trial is left to run, or another may be drawn."""
        return bool(self._waiting) or self._has_budget()

    def resume(self) -> None:
        """Shows which unfinished trials of an earlier session are continued."""
        if self._waiting:
            numbers = ", ".join(str(trial.number) for trial in self._waiting)
            trials = f"{self._prefix}trial{'s' if len(self._waiting) > 1 else ''}"
            self._say(f"continuing {trials} {numbers}")

    def next_job(self) -> Job | None:
        """The next trial's run; None if the budget is used up."""
        while self.is_open:
            trial = self._waiting.popleft() if self._waiting else self._ledger.begin()
            if trial is None:
                return None
            if job := self._job(trial):
                return job
        return None

    def _has_budget(self) -> bool:
        budget = self._config.budget
        if budget.hours is not None and self._seconds() >= 3600 * budget.hours:
            return False
        if budget.tokens is not None and self._ledger.tokens() >= budget.tokens:
            return False
        return self._ledger.has_room()

    def _job(self, trial: TrialRecord) -> Job | None:
        """The run of a trial; None if the trial has ended already, or failed to start."""
        try:
            config = self._config.trial_config(trial.values)
        except PemlError as error:
            self._fail(trial.number, error.problem, _totals(Spent()))
            return None
        name = f"{self._prefix}trial {trial.number}"
        job = Job(name, self._folder.trial(trial.number), config)
        self._running[name] = trial
        if job.is_settled:  # the run ended, and the session was killed before it recorded that
            RunFolder(job.folder).holds(config)  # refuses another study's trial of this number
            self.end(job)
            return None
        listed = ", ".join(f"{path}={_shown(value)}" for path, value in trial.values.items())
        self._say(f"started  {name}: {listed}")
        return job

    def _report(self, job: Job, step: int, mean: float) -> bool:
        total = sum(Plan.read(job.folder).steps.values())
        percent = max(1, round(WHOLE * step / total))
        return self._ledger.report(self._running[job.name].number, percent, mean)

    def end(self, job: Job) -> None:
        """Records how the trial of a run ended."""
        number, results = self._running.pop(job.name).number, job.results()
        if results is None:
            self._end_early(job, number)
            return
        spent = _totals(results.cost, results.cost.total_trainable_parameters)
        values = [OBJECTIVES[name].value(results) for name in self._config.objectives]
        if not all(map(math.isfinite, values)):
            self._fail(number, "its development mean is not a number", spent)
            return
        listed = ", ".join(
            f"{OBJECTIVES[name].title} {value:.6g}"
            for name, value in zip(self._config.objectives, values, strict=True)
        )
        self._settle(TrialRecord(number=number, state="finished", objectives=values, **spent))
        self._say(f"finished {job.name}: {listed}, {spent['seconds']:.0f} s")

    def _end_early(self, job: Job, number: int) -> None:
        failure, spent = job.failure(), _spent_early(job)
        if failure is not None:
            self._fail(number, failure, spent)
            return
        self._settle(TrialRecord(number=number, state="pruned", **spent))
        self._say(f"stopped  {job.name}: it fell behind, {spent['seconds']:.0f} s")

    def _fail(self, number: int, reason: str, spent: dict[str, Any]) -> None:
        self._settle(TrialRecord(number=number, state="failed", reason=reason, **spent))
        self._say(f"FAILED   {self._prefix}trial {number}: {reason}")
        self._reasons.append(f"trial {number}: {reason}")
        if not self._worked and len(self._reasons) >= self._config.failures:
            raise RunError(
                f"the first {len(self._reasons)} trials of this session all failed. "
                f"{self._reasons[0]}",
                action=f"see {self._folder.trial(number).parent}; correct the config and start in "
                "a new folder, or run the same command again to try others",
            )

    def _settle(self, ended: TrialRecord) -> None:
        self._ledger.settle(ended, self._folder.trial(ended.number))
        self._worked = self._worked or ended.state != "failed"
        self._folder.worked(self._seconds())

    def _seconds(self) -> float:
        """Seconds that the driver has worked, in all of its sessions."""
        return self._before + time.monotonic() - self._since

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def run_trials(drivers: Sequence[Driver], executor: Executor) -> None:
    """Runs the trials of studies until their budgets are used up.

    Earlier studies go first; a later one starts trials when the executor has room. Nothing else
    may use the executor.

    Raises:
        PemlError: The first trials all failed, the storage can't be reached, or there is no
            executor.
    """
    for driver in drivers:
        driver.resume()
    running: dict[Path, Driver] = {}
    while True:
        for driver in drivers:
            while len(running) < executor.capacity and (job := driver.next_job()) is not None:
                executor.submit(job)
                running[job.folder] = driver
        if not running:
            return
        for job in executor.wait():
            running.pop(job.folder).end(job)


def _totals(cost: Spent, parameters: int | None = None) -> dict[str, Any]:
    """A run's cost as the fields of its trial's record."""
    seconds, tokens = sum(cost.seconds.values()), sum(cost.tokens.values())
    return {"seconds": seconds, "tokens": tokens, "parameters": parameters}


def _spent_early(job: Job) -> dict[str, Any]:
    """Cost of a run that did not finish, up to its last checkpoint.

    A run that is stopped writes a checkpoint first. What a failed run did after its last
    checkpoint isn't counted.
    """
    states = RunFolder(job.folder).checkpoints.glob(f"step-*/{SessionState.FILE}")
    costs = [SessionState.read(path.parent).cost for path in states]
    return _totals(max(costs, key=lambda cost: sum(cost.steps.values()), default=Spent()))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
