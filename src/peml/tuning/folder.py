"""The folder of a study."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from peml.config import dump_config
from peml.errors import RunError
from peml.files import read_json, write_json, write_text
from peml.run import differences, lock_folder
from peml.tasks.yaml_file import read_yaml
from peml.tuning.settings import StudyConfig
from peml.tuning.storage import shown_url

__all__ = ["StudyFolder"]

_CONFIG = "study.yaml"
_DRIVER = "driver.json"
# How long, where and how patiently a study works does not make it another study.
_MAY_CHANGE = ("budget", "execution", "failures", "storage")


class StudyFolder:
    """A study's files, as one driver has them.

    Args:
        path: The folder; made by `create`, not here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def journal(self) -> Path:
        """Where trials are kept if no database is named."""
        return self.path / "study.journal"

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04}"

    def holds(self, config: StudyConfig) -> bool:
        """Whether this study was started here; False for a new or empty folder.

        Raises:
            RunError: The folder holds something else, or another study.
        """
        existing = self.path / _CONFIG
        if existing.is_file():
            changed = differences(*map(_comparable, (read_yaml(existing), _dumped(config))))
            if changed:
                raise RunError(
                    f"{self.path} holds another study: {changed}",
                    allowed="the config the study was started with, but for "
                    f"{', '.join(_MAY_CHANGE[:3])} and storage.wait",
                    action="choose another --output, or undo the change; nothing was changed",
                )
            return True
        own = {_DRIVER, f".{_DRIVER}.partial", f".{_CONFIG}.partial"}
        if self.path.exists() and not (
            self.path.is_dir() and all(file.name in own for file in self.path.iterdir())
        ):
            raise RunError(
                f"{self.path} exists and is no study's folder",
                allowed="a new folder, or one that an earlier `peml tune` made",
                action="choose another --output; nothing was changed",
            )
        return False

    def create(self, config: StudyConfig) -> None:
        """Makes the folder of a study that starts here."""
        write_json(self.path / _DRIVER, {"id": uuid.uuid4().hex, "seconds": 0.0})
        write_text(self.path / _CONFIG, dump_config(_without_password(config)))  # last: it counts

    def driver(self) -> dict[str, Any]:
        """Id of the driver that works here, and the seconds it has worked."""
        found: dict[str, Any] = read_json(self.path / _DRIVER)
        return found

    def worked(self, seconds: float) -> None:
        """Notes how many seconds the driver has worked in all."""
        write_json(self.path / _DRIVER, {**self.driver(), "seconds": seconds})

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes out while this one works."""
        return lock_folder(self.path)


def _without_password(config: StudyConfig) -> StudyConfig:
    url = config.storage.url
    shown = config.storage.model_copy(update={"url": None if url is None else shown_url(url)})
    return config.model_copy(update={"storage": shown})


def _dumped(config: StudyConfig) -> dict[str, Any]:
    return _without_password(config).model_dump(mode="json")


def _comparable(dumped: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in dumped.items() if key not in _MAY_CHANGE}
    return {**kept, "storage.url": dumped["storage"]["url"]}
