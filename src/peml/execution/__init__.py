"""Where runs execute: in this process, in local processes, on a Ray cluster."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.execution.executor import Executor, run_jobs
    from peml.execution.job import Job
    from peml.execution.making import make_executor
    from peml.execution.settings import ExecutionSettings, WorkerSettings
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "ExecutionSettings",
    "Executor",
    "Job",
    "WorkerSettings",
    "make_executor",
    "run_jobs",
]
