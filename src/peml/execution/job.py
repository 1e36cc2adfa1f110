"""A run to be trained somewhere, and what is written down beside its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.config import RunConfig, parse_config
from peml.records import Ending, Results
from peml.run import RunFolder


@dataclass(frozen=True)
class Job:
    """One ordinary run folder to be trained."""

    name: str
    folder: Path
    config: RunConfig

    @property
    def record(self) -> Path:
        """Where a failure, or that it was pruned, is written down."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """What its process printed; removed when it ends well."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return RunFolder(self.folder).is_finished

    @property
    def is_settled(self) -> bool:
        """Whether it finished, failed or was pruned: nothing is left to do."""
        return self.is_finished or self.record.is_file()

    def results(self) -> Results | None:
        """What evaluation found, where the run is finished."""
        return Results.read(self.folder) if self.is_finished else None

    def failure(self) -> str | None:
        """Why the run failed, if it did."""
        ending = self._ending()
        return ending.reason if ending is not None and ending.status == "failed" else None

    def pruned(self) -> Ending | None:
        """Where the run was stopped by its reports, if it was."""
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
        """The reverse of `packed`; what a subclass adds stays where it was packed."""
        return Job(packed["name"], Path(packed["folder"]), parse_config(packed["config"]))

    def _end(self, ending: Ending) -> None:
        ending.write(self.record.parent, self.record.name)

    def _ending(self) -> Ending | None:
        """What was written down of a run that is not finished."""
        return None if self.is_finished else Ending.find(self.record.parent, self.record.name)
