"""Shows and logs a run's progress: ``metrics.jsonl``, trackers, and a progress bar."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peml.errors import CheckpointError
from peml.files import disk_errors, json_line
from peml.prefix.genotype import Genotype
from peml.records.metrics import (
    Decisions,
    Discretisation,
    Evaluation,
    FreeWeights,
    Scores,
    StepRecord,
)
from peml.records.record import Record
from peml.reporting.run.outcomes import judge_found
from peml.run.trackers import Trackers

OnEvaluation = Callable[[Evaluation], bool]
"""Called after every development evaluation; True stops the run after its next checkpoint."""


def never_stops(evaluation: Evaluation) -> bool:
    """An `OnEvaluation` that never stops the run."""
    return False


class RunStopped(Exception):  # noqa: N818 - asked for, so no error
    """A run was stopped by its `OnEvaluation`; its folder can be continued."""

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__(f"stopped at step {evaluation.step}")
        self.evaluation = evaluation


class Log:
    """A log of events; this one writes nothing, for processes other than the first."""

    def write(self, record: Record) -> None:
        """Appends an event."""

    def offset(self) -> int:
        """The length in bytes of the log on disk, after a sync."""
        return 0

    def close(self) -> None:
        """Closes the log."""


class MetricsLog(Log):
    """``metrics.jsonl``: events without times, so that two runs can be compared.

    `offset` is the number of valid bytes. Lines that a killed session wrote after its last
    checkpoint are cut off, since they will be written again.

    Raises:
        CheckpointError: The file is shorter than `offset`.
    """

    def __init__(self, path: Path, offset: int) -> None:
        with disk_errors(path):
            self._path = path
            self._file = path.open("a+", encoding="utf-8")
            if path.stat().st_size < offset:
                self._file.close()
                raise CheckpointError(
                    f"{path} was cut short: it lacks lines from before the last checkpoint",
                    action="restore the file, or start a new run folder",
                )
            self._file.truncate(offset)
            self._file.seek(0, os.SEEK_END)

    def write(self, record: Record) -> None:
        with disk_errors(self._path):
            self._file.write(json_line(self._path, record.model_dump(mode="json")))
            self._file.flush()

    def offset(self) -> int:
        with disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._path.stat().st_size

    def close(self) -> None:
        self._file.close()


class ProgressDisplay:
    """A bar with phase, loss, tokens per second and time left; plain lines without a terminal."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, loss="-", rate="-")
        self._since = time.monotonic()
        self._tokens = 0

    def step(self, record: StepRecord) -> None:
        """Moves the bar."""
        self._tokens += record.tokens
        rate = self._tokens / max(time.monotonic() - self._since, 1e-9)
        self._bar.update(
            self._task,
            completed=record.step,
            description=record.phase,
            loss=f"{record.loss:.3f}",
            rate=f"{rate:,.0f}",
        )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


@dataclass
class RunListener:
    """Passes the training loop's events to the log, the trackers and the terminal."""

    log: Log
    trackers: Trackers
    display: ProgressDisplay
    decisions: Callable[[int], dict[str, Any] | None]  # their temperature, weights at a step
    save: Callable[[str], None]  # writes a checkpoint of a phase
    keep_best: Callable[[Evaluation], None]  # keeps the weights of the best evaluation so far
    stops: OnEvaluation  # whether to end the run after an evaluation
    last: Evaluation | None = None
    stopped: Evaluation | None = None

    def on_step(self, record: StepRecord) -> None:
        """Shows the step, and logs it if its losses were read."""
        self.display.step(record)
        if not record.task_losses:
            return
        self.log.write(record)
        train = {"loss": record.loss, "gradient_norm": record.gradient_norm}
        self.trackers.log("train", train, record.step)
        self.trackers.log("learning_rate", record.learning_rates, record.step)
        self.trackers.log("task_weight", record.task_weights, record.step)
        decisions = self.decisions(record.step - 1)
        if decisions is not None:
            line = Decisions(phase=record.phase, step=record.step, **decisions)
            self.log.write(line)
            for name, options in line.weights.items():
                self.trackers.log(f"decisions/{name}", options, record.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Logs the development metrics, and keeps the weights if they are best."""
        self.last = evaluation
        if evaluation.is_best:
            self.keep_best(evaluation)
        self.log.write(evaluation)
        scores = {"mean": evaluation.mean, **evaluation.tasks}
        self.trackers.log("development", scores, evaluation.step)
        mark = "  (best)" if evaluation.is_best else ""
        self.display.say(
            f"{evaluation.phase:>6} step {evaluation.step}: "
            f"development mean {evaluation.mean:.4f}{mark}"
        )
        if self.stops(evaluation):
            self.stopped = evaluation

    def on_discretise(
        self,
        step: int,
        soft: Scores,
        hard: Scores,
        genotype: Genotype,
        *,
        guarded: list[str],
        free: dict[str, Any],
    ) -> None:
        """Logs and shows the choice of the search, and its effect on the scores.

        `soft` and `hard` are the tasks' development metrics before and after, `guarded` the
        decisions that a guard or the budget overruled, `free` is as in `PrefixSearch.free_weights`.
        """
        self.log.write(
            Discretisation(
                step=step,
                soft=soft,
                hard=hard,
                gap=hard.mean - soft.mean,
                choices=genotype.choices(),
                guarded=guarded,
                fitted=genotype.found_by.get("fitted", []),
                free=FreeWeights(**free),
            )
        )
        outcomes = judge_found(genotype.found_by, genotype.choices())
        undecided = [outcome.name for outcome in outcomes if outcome.undecided]
        named = f" (undecided: {', '.join(undecided)})" if undecided else ""
        self.display.say(
            f"discretise step {step}: cells {', '.join(genotype.cells)}{named}; "
            f"development mean {soft.mean:.4f} -> {hard.mean:.4f}"
        )

    def on_checkpoint(self, phase: str) -> None:
        """Saves a checkpoint.

        Raises:
            RunStopped: The last evaluation was told to stop the run.
        """
        self.save(phase)
        if self.stopped is not None:
            raise RunStopped(self.stopped)
