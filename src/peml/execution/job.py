"""A run to be trained somewhere, and what is written down beside its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peml.config import RunConfig, parse_config
from peml.files import read_json, write_json
from peml.run import RunFolder

__all__ = ["Job", "Pruned"]


@dataclass(frozen=True)
class Pruned:
    """Where a run was stopped by the reports it made.

    Attributes:
        step: Training steps it had done.
        value: Its mean development metric there.
    """

    step: int
    value: float


@dataclass(frozen=True)
class Job:
    """One ordinary run folder to be trained.

    Attributes:
        name: What it is called in messages.
        folder: The run folder.
        config: The run's config.
    """

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

    def results(self) -> dict[str, Any] | None:
        """``results.json`` of a finished run."""
        return RunFolder(self.folder).read("results.json") if self.is_finished else None

    def failure(self) -> str | None:
        """Why the run failed, if it did."""
        record = self._recorded()
        return None if record is None or _is_pruned(record) else str(record["reason"])

    def pruned(self) -> Pruned | None:
        """Where the run was stopped by its reports, if it was."""
        record = self._recorded()
        if record is None or not _is_pruned(record):
            return None
        return Pruned(int(record["step"]), float(record["value"]))

    def fail(self, reason: str) -> None:
        """Writes down that the run failed."""
        write_json(self.record, {"status": "failed", "reason": reason})

    def prune(self, step: int, value: float) -> None:
        """Writes down that the run was stopped at an evaluation."""
        write_json(self.record, {"status": "pruned", "step": step, "value": value})

    def packed(self) -> dict[str, Any]:
        """The job as plain data for a worker, since a config's type is made at run time."""
        config = self.config.model_dump(mode="json")
        return {"name": self.name, "folder": str(self.folder.absolute()), "config": config}

    @staticmethod
    def unpack(packed: Mapping[str, Any]) -> Job:
        """The reverse of `packed`; what a subclass adds stays where it was packed."""
        return Job(packed["name"], Path(packed["folder"]), parse_config(packed["config"]))

    def _recorded(self) -> dict[str, Any] | None:
        """What was written down of a run that is not finished."""
        if self.is_finished or not self.record.is_file():
            return None
        record: dict[str, Any] = read_json(self.record)
        return record


def _is_pruned(record: dict[str, Any]) -> bool:
    return record.get("status") == "pruned"
