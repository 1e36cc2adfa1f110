"""The folder of a study."""

import uuid
from pathlib import Path
from typing import Any, ClassVar

from peml.config.grants import dump_shared, without_grants
from peml.files import write_text
from peml.records.record import FileRecord
from peml.records.study import StudyRecord
from peml.run.work_folder import WorkFolder, differences
from peml.tasks.yaml_file import read_yaml
from peml.tuning.settings import StudyConfig

_CONFIG = "study.yaml"
# How long, where and how patiently a study works does not make it another study.
_MAY_CHANGE = ("budget", "execution", "failures", "storage")


class DriverRecord(FileRecord):
    """``driver.json``: id of the driver that works in a folder, and the seconds it has worked."""

    FILE: ClassVar[str] = "driver.json"
    THING: ClassVar[str] = "study"

    id: str
    seconds: float


class StudyFolder(WorkFolder[StudyConfig]):
    """The folder in which one driver keeps a study's files."""

    noun, command = "study's folder", "peml tune"
    held = "another study"
    unchanged = (
        "the config the study was started with, but for "
        f"{', '.join(_MAY_CHANGE[:3])} and storage.wait"
    )
    config_file, before_config = _CONFIG, DriverRecord.FILE

    @property
    def journal(self) -> Path:
        """The file that holds the trials if the config names no database."""
        return self.path / "study.journal"

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04}"

    def _changed(self, config: StudyConfig) -> str:
        now = _without_password(config).model_dump(mode="json")
        return differences(_comparable(read_yaml(self.path / _CONFIG)), _comparable(now))

    def create(self, config: StudyConfig) -> None:
        """Creates the folder of a new study."""
        DriverRecord(id=uuid.uuid4().hex, seconds=0.0).write(self.path)
        write_text(self.path / _CONFIG, dump_shared(_without_password(config)))  # last: it counts

    def driver(self) -> DriverRecord:
        """The driver that works in this folder."""
        return DriverRecord.read(self.path)

    def forget_failures(self) -> None:
        """Lets the failed trials of a grid run again.

        The others are read back from their run folders: a grid draws the same values for the same
        numbers again.
        """
        failed = list((self.path / "trials").glob("*.json"))
        if failed:  # their records last: a kill before leaves what is to be forgotten
            self.journal.unlink(missing_ok=True)
            (self.path / StudyRecord.FILE).unlink(missing_ok=True)
        for record in failed:
            record.with_suffix(".log").unlink(missing_ok=True)
            record.unlink()

    def worked(self, seconds: float) -> None:
        """Writes down how many seconds the driver has worked in all."""
        self.driver().model_copy(update={"seconds": seconds}).write(self.path)


def _without_password(config: StudyConfig) -> StudyConfig:
    url = config.storage.url
    if url is None:
        return config
    from peml.tuning.storage import shown_url  # imports SQLAlchemy and Optuna

    shown = config.storage.model_copy(update={"url": shown_url(url)})
    return config.model_copy(update={"storage": shown})


def _comparable(dumped: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in without_grants(dumped).items() if key not in _MAY_CHANGE}
    return {**kept, "storage.url": dumped["storage"]["url"]}
