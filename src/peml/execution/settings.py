"""Where runs execute: in this process, in local processes, on a Ray cluster."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peml.settings import Settings


class WorkerSettings(Settings):
    """Where runs execute, and the resources of each; how many run at a time is set elsewhere."""

    kind: Literal["inline", "processes", "ray"] = Field(
        "processes",
        description="inline: in this process, one after another; processes: on this machine, "
        "one process per run; ray: on a Ray cluster.",
    )
    address: str | None = Field(
        None,
        description="ray: address of the cluster, HOST:PORT, ray://HOST:PORT or auto; default: "
        "start a cluster on this machine and stop it at the end.",
    )
    cpus: int | None = Field(
        None,
        description="Cores per run; default: an equal share of this machine's cores, or 1 on a "
        "cluster given by its address.",
        ge=1,
    )
    gpus: float = Field(
        0, description="ray: GPUs per run; with a fraction such as 0.5, runs share a GPU.", ge=0
    )
    retries: int | None = Field(
        None,
        description="How often a run is resumed from its checkpoint after its worker died; "
        "default: 2 on ray, where machines come and go, else 0.",
        ge=0,
    )

    @model_validator(mode="after")
    def _ray_alone(self) -> Self:
        if self.kind != "ray":
            given = {"address": self.address is not None, "gpus": self.gpus > 0}
            wrong = [name for name, is_given in given.items() if is_given]
            if wrong:
                raise ValueError(
                    f"{' and '.join(wrong)} can't be used with kind {self.kind}: set kind: ray, or "
                    f"leave out {' and '.join(wrong)}"
                )
        return self

    def check_jobs(self, jobs: int) -> None:
        """Refuses a number of jobs at a time that this kind can't run.

        Raises:
            ValueError: More than one for `inline`.
        """
        if self.kind == "inline" and jobs > 1:
            raise ValueError(
                f"kind inline runs one job at a time, and jobs is {jobs}: set jobs: 1, or kind: "
                "processes"
            )


class ExecutionSettings(WorkerSettings):
    """Where runs execute, and how many at a time."""

    jobs: int = Field(1, description="Runs at a time.", ge=1)

    @model_validator(mode="after")
    def _can_run_the_jobs(self) -> Self:
        self.check_jobs(self.jobs)
        return self
