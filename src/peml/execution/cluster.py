"""Jobs on a Ray cluster: one started on this machine, or any by its address."""

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from peml.errors import RunError
from peml.execution import mailbox
from peml.execution.executor import Executor, Report
from peml.execution.job import Job
from peml.execution.remote import appears, mark_of, train_remotely
from peml.execution.settings import ExecutionSettings
from peml.files import write_text

_GRACE = 10.0  # seconds
_OBJECT_STORE = 80 * 2**20  # bytes; nothing but a few numbers goes through it


class RayExecutor(Executor):
    """Trains each job in a fresh process somewhere on the cluster.

    The run folders are on a file system that all machines share, under the same path; each worker
    checks that before it begins. Workers end with this process, whatever ends it.
    """

    retries = 2

    def __init__(self, settings: ExecutionSettings, report: Report | None = None) -> None:
        super().__init__(settings, report)
        self._ray = _import_ray()
        self._settings = settings
        self._token = uuid.uuid4().hex[:12]
        self._tasks: dict[Any, Job] = {}  # by the reference to its result
        self._train: Any = None  # the remote function; there once the cluster is connected to
        self._mailbox: Any = None
        self._mail: Any = None

    def wait(self) -> list[Job]:
        ended: list[Job] = []
        while self._tasks and not ended:
            awaited = [*self._tasks, *([] if self._mail is None else [self._mail])]
            for ready in self._ray.wait(awaited, num_returns=1)[0]:
                if ready == self._mail:
                    self._answer()
                    continue
                job = self._tasks.pop(ready)
                reason = self._reason_of_death(ready, job)
                if self._has_settled(job, reason):
                    ended.append(job)
        return ended

    def close(self) -> None:
        if self._train is None:
            return
        tasks = list(self._tasks)
        for task in tasks:
            self._ray.cancel(task, force=True)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=_GRACE)
        for job in self._tasks.values():
            mark_of(job).unlink(missing_ok=True)
        self._tasks.clear()
        self._train = None
        self._ray.shutdown()

    def _jobs(self) -> Sequence[Job]:
        return list(self._tasks.values())

    def _start(self, job: Job) -> None:
        if self._train is None:
            self._connect()
        write_text(mark_of(job), self._token)
        task = self._train.remote(
            job.packed(), str(Path.cwd()), self._token, self._cpus, self._mailbox
        )
        self._tasks[task] = job

    @property
    def _cpus(self) -> int:
        settings = self._settings
        share = 1 if settings.address else max(1, torch.get_num_threads() // settings.jobs)
        return settings.cpus or share

    def _connect(self) -> None:
        """Starts the local cluster or finds the one with the address.

        Raises:
            RunError: There is no cluster, or this machine can't give a job its share.
        """
        settings = self._settings
        local = {
            "num_cpus": max(os.cpu_count() or 1, settings.jobs),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
        try:
            self._ray.init(
                settings.address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if settings.address else local),
            )
        except (
            OSError,
            RuntimeError,
            ValueError,
            ImportError,
            self._ray.exceptions.RayError,
        ) as error:
            where = f"the Ray cluster {settings.address}" if settings.address else "Ray"
            raise RunError(
                f"can't use {where}: {error}",
                allowed="HOST:PORT of a running cluster that this machine is part of, auto, or no "
                "address for one on this machine alone; where the cluster has a token, "
                "RAY_AUTH_MODE=token and the same ~/.ray/auth_token here",
                action="start it with `ray start --head`, or correct the address or the token",
            ) from error
        gpus = settings.gpus
        self._train = self._ray.remote(
            num_cpus=self._cpus, num_gpus=gpus, max_retries=0, max_calls=1
        )(train_remotely)
        if not settings.address:
            self._check_resources(self._ray.cluster_resources())
        if self._report is not None:
            # Sent as it stands, it works without the seconds and the memory of importing PEML.
            self._ray.cloudpickle.register_pickle_by_value(mailbox)
            actor = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(
                mailbox.Mailbox
            )
            self._mailbox = actor.remote()
            self._mail = self._mailbox.next.remote()

    def _check_resources(self, there: dict[str, float]) -> None:
        """Refuses jobs that need more than a cluster of fixed size has; they would wait forever."""
        asked = {"CPU": float(self._cpus), "GPU": self._settings.gpus}
        for name, amount in asked.items():
            if amount > there.get(name, 0):
                raise RunError(
                    f"a run asks for {amount:g} {name}s, and this machine has "
                    f"{there.get(name, 0):g}",
                    allowed=f"at most {there.get(name, 0):g}",
                    action=f"lower {name.lower()}s, or give the address of a cluster",
                )

    def _answer(self) -> None:
        assert self._report is not None
        number, folder, step, value = self._ray.get(self._mail)
        self._mail = self._mailbox.next.remote()
        for job in self._tasks.values():
            if str(job.folder.absolute()) == folder:
                self._mailbox.answer.remote(number, self._report(job, step, value))

    def _reason_of_death(self, task: Any, job: Job) -> str:
        """Why a job ended without a result.

        Raises:
            RunError: The cluster can't train this job, nor any other.
        """
        mark_of(job).unlink(missing_ok=True)
        deaths = self._ray.exceptions
        try:
            stranger = self._ray.get(task)
        except (deaths.WorkerCrashedError, deaths.NodeDiedError, deaths.OutOfMemoryError) as error:
            return f"its worker died: {str(error).splitlines()[0]}"
        except deaths.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunError(
                f"the Ray cluster can't train {job.name}: {last}",
                allowed="machines with the same Python, PEML and Ray as this one",
                action="install them there, then run the same command again",
            ) from error
        if stranger is not None:
            raise RunError(
                f"{stranger} does not see {Path.cwd()} or {job.folder.parent} of "
                f"{socket.gethostname()}",
                allowed="run folders, and the folder the command is called in, on a file system "
                "that all machines of the cluster share, under the same path",
                action="choose another --output, or call the command from another folder",
            )
        appears(lambda: job.is_settled)
        return "its worker ended and left no result"


def _import_ray() -> Any:
    # It would send a copy of the working folder to the cluster, and figures of use to its makers.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RunError(
            "Ray is not installed, and execution.kind is ray",
            allowed="processes or inline, which need nothing more",
            action="install the extra: pip install 'peml[ray]'",
        ) from error
    return ray
