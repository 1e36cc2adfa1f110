"""A run to train, and the records beside its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.config.loading import parse_config
from peml.config.model import RunConfig
from peml.records.run import Ending, Results
from peml.run.folder import RunFolder


@dataclass(frozen=True)
class Job:
    """One run to train, and its folder."""

    name: str
    folder: Path
    config: RunConfig

    @property
    def record(self) -> Path:
        """The file that records that the run failed or was pruned."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """The file with the output of its process; removed if the run succeeds."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return RunFolder(self.folder).is_finished

    @property
    def is_settled(self) -> bool:
        """Whether it finished, failed or was pruned."""
        return self.is_finished or self.record.is_file()

    def results(self) -> Results | None:
        """The results of a finished run; None before."""
        return Results.read(self.folder) if self.is_finished else None

    def failure(self) -> str | None:
        """Why the run failed; None if it didn't."""
        ending = self._ending()
        return ending.reason if ending is not None and ending.status == "failed" else None

    def pruned(self) -> Ending | None:
        """The step at which the run was pruned; None if it wasn't."""
        ending = self._ending()
        return ending if ending is not None and ending.status == "pruned" else None

    def fail(self, reason: str) -> None:
        """Writes down that the run failed."""
        self._end(Ending(status="failed", reason=reason))

    def prune(self, step: int, value: float) -> None:
        """Writes down that the run was stopped at an evaluation."""
        self._end(Ending(status="pruned", step=step, value=value))

    def packed(self) -> dict[str, Any]:
        """The job as plain data for a worker, since a config's type is made at run time."""
        config = self.config.model_dump(mode="json")
        return {"name": self.name, "folder": str(self.folder.absolute()), "config": config}

    @staticmethod
    def unpack(packed: Mapping[str, Any]) -> Job:
        """The job of `packed` data, without what a subclass adds."""
        return Job(packed["name"], Path(packed["folder"]), parse_config(packed["config"]))

    def _end(self, ending: Ending) -> None:
        ending.write(self.record.parent, self.record.name)

    def _ending(self) -> Ending | None:
        """The record of a run that failed or was pruned."""
        return None if self.is_finished else Ending.find(self.record.parent, self.record.name)
