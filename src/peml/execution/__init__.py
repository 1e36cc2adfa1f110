"""Where runs execute: in this process, in local processes, on a Ray cluster."""

from peml.execution.executor import Executor, Report, run_jobs
from peml.execution.job import Job, Pruned
from peml.execution.making import make_executor
from peml.execution.settings import ExecutionSettings, WorkerSettings

__all__ = [
    "ExecutionSettings",
    "Executor",
    "Job",
    "Pruned",
    "Report",
    "WorkerSettings",
    "make_executor",
    "run_jobs",
]
