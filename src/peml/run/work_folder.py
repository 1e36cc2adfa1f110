"""A folder that one process at a time works in: of a run, a study or a comparison."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from peml.errors import RunError
from peml.locks import LOCK, lock_folder

ConfigT = TypeVar("ConfigT")


class WorkFolder(ABC, Generic[ConfigT]):
    """What a command begins in a folder, and goes on with when it is called again.

    What is in it may be read and written once `locked`. The config is written last when work is
    begun, so a folder without one is a new folder. `locked` makes the folder.
    """

    noun: ClassVar[str]
    """Such a folder, in messages."""
    command: ClassVar[str]
    """What makes one."""
    held: ClassVar[str]
    """What is in one that was begun with another config."""
    unchanged: ClassVar[str]
    """What a config may differ in."""
    config_file: ClassVar[str]
    """Name of the config."""
    before_config: ClassVar[str]
    """Name of the file that is written before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_started(self) -> bool:
        """Whether work was begun here."""
        return (self.path / self.config_file).is_file()

    def holds(self, config: ConfigT) -> bool:
        """Whether the work of this config was begun here; False for a new or empty folder.

        Raises:
            RunError: The folder holds something else, or work of another config.
        """
        self._refuse_file()
        there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        if self.config_file in there:
            changed = self._changed(config)
            if changed:
                raise RunError(
                    f"{self.path} holds {self.held}: {changed}",
                    allowed=self.unchanged,
                    action=self._advice(changed),
                )
            return True
        first = self.before_config
        if there - {LOCK, first, f".{first}.partial", f".{self.config_file}.partial"}:
            raise self._is_something_else()
        return False

    @abstractmethod
    def _changed(self, config: ConfigT) -> str:
        """In what a config differs from the one of the folder; empty if in nothing that counts."""

    def _advice(self, changed: str) -> str:
        """What to do about a changed config."""
        return "choose another --output, or undo the change; nothing was changed"

    def locked(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """Makes the folder and keeps other processes out of it, see `lock_folder`.

        Raises:
            RunError: Also where the path is a file.
        """
        self._refuse_file()
        return lock_folder(self.path, wait)

    def _refuse_file(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise self._is_something_else()

    def _is_something_else(self) -> RunError:
        return RunError(
            f"{self.path} exists and is no {self.noun}",
            allowed=f"a new folder, or one that an earlier `{self.command}` made",
            action="choose another --output; nothing was changed",
        )
