"""Makes an executor from settings."""

from peml.execution.cluster import RayExecutor
from peml.execution.executor import Executor, Report
from peml.execution.inline import InlineExecutor
from peml.execution.processes import ProcessExecutor
from peml.execution.settings import ExecutionSettings

_EXECUTORS: dict[str, type[Executor]] = {
    "inline": InlineExecutor,
    "processes": ProcessExecutor,
    "ray": RayExecutor,
}


def make_executor(settings: ExecutionSettings, report: Report | None = None) -> Executor:
    """Makes the executor that the settings ask for.

    Raises:
        PemlError: Ray is not installed, or the cluster can't be reached.
    """
    return _EXECUTORS[settings.kind](settings, report)
