"""The folder of a run, a study or a comparison, in which one process works at a time."""

import hashlib
import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import yaml

from peml.config.grants import dump_shared
from peml.errors import RunError
from peml.files import refuse_sealed
from peml.locks import LOCK, lock_folder
from peml.settings import Settings
from peml.tasks.yaml_file import read_yaml

ConfigT = TypeVar("ConfigT", bound=Settings)


class WorkFolder(ABC, Generic[ConfigT]):
    """A folder in which a command starts work, or continues it if it is called again.

    Read and write its files only inside `locked`, which makes the folder. The config is written
    last when work starts, so a folder without a config is a new folder.
    """

    noun: ClassVar[str]
    """The name of such a folder in messages."""
    command: ClassVar[str]
    """The command that makes the folder."""
    held: ClassVar[str]
    """The content of a folder of another config, for messages."""
    unchanged: ClassVar[str]
    """The fields in which a config may differ."""
    config_file: ClassVar[str]
    """Name of the config."""
    before_config: ClassVar[str]
    """Name of the file that is written before it."""
    free: ClassVar[tuple[str, ...]] = ()
    """What may be edited in the config, as paths: it changes nothing, or is checked otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def default(cls, config: Path, named: str | None = None) -> Path:
        """The folder to work in for a config file, if no other is given.

        A config that such a folder holds goes on there. Any other one works in `named`, the folder
        that it names, or in ``runs/NAME``.
        """
        if config.name == cls.config_file and (config.parent / cls.before_config).is_file():
            return config.parent
        return Path(named or f"runs/{config.stem}")

    @property
    def is_started(self) -> bool:
        """Whether work has started in this folder."""
        return (self.path / self.config_file).is_file()

    def holds(self, config: ConfigT) -> bool:
        """Whether the folder has work of this config; False for a new or empty folder.

        Raises:
            RunError: The folder holds something else, or work of another config.
        """
        self._refuse_file()
        there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        if self.config_file in there:
            changed = self._changed(config) or self._edited()
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
        """The differences of a config from the folder's; empty if none of them matters."""

    def settings(self, config: ConfigT | None = None) -> str:
        """A checksum of a config without what is `free`; default: of the config as it is there."""
        shown = None if config is None else yaml.safe_load(dump_shared(config))
        content = shown or read_yaml(self.path / self.config_file)
        for section, _, name in (path.rpartition(".") for path in self.free):
            part: Any = content
            for key in filter(None, section.split(".")):
                part = part.get(key) or {}
            part.pop(name, None)
        said = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def _begun_with(self) -> str:
        """The checksum of the settings that the work began with; empty if nothing says it."""
        return ""

    def _edited(self) -> str:
        """Says that the config was edited since; the work that is done has other settings."""
        begun = self._begun_with()
        return f"{self.config_file} was edited" if begun and begun != self.settings() else ""

    def _advice(self, changed: str) -> str:
        """The action to suggest if the config changed."""
        return "choose another --output, or undo the change; nothing was changed"

    def locked(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """Makes the folder and keeps other processes out of it, see `lock_folder`.

        Raises:
            RunError: See `lock_folder`; or the path is a file, or inside a finished model.
        """
        self._refuse_file()
        refuse_sealed(self.path)
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
