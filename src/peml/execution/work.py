"""Trains a job's run; used by all executors."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from peml.errors import PemlError
from peml.execution.job import Job
from peml.records.metrics import Evaluation
from peml.run.listener import RunStopped
from peml.run.pipeline import fit

_PATIENCE = 60.0  # seconds for a worker to end whose driver, or whose machine, was just lost


def print_to(log: Path) -> None:
    """Sends everything that this process prints to a file from now on."""
    with log.open("a", encoding="utf-8") as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def work(job: Job, stops: Callable[[int, float], bool] | None = None) -> None:
    """Trains a job's run; its results are in its folder, and its failure is recorded beside it.

    Its report is written as text, not drawn. A folder that exists is continued. `stops` is called
    with training step and mean development metric at every evaluation; if it returns True, the run
    ends there.
    """

    def on_evaluation(evaluation: Evaluation) -> bool:
        return stops is not None and stops(evaluation.step, evaluation.mean)

    try:
        fit(job.config, job.folder, on_evaluation=on_evaluation, wait=_PATIENCE, page=False)
    except RunStopped as stopped:
        job.prune(stopped.evaluation.step, stopped.evaluation.mean)
    except Exception as error:
        known = error.problem if isinstance(error, PemlError) else None
        with job.log.open("a", encoding="utf-8") as log:
            sys.stdout.flush()  # it may go to the same file
            traceback.print_exc(file=log)
        job.fail(known or f"{type(error).__name__}: {error}")
    if job.failure() is None:
        job.log.unlink(missing_ok=True)
