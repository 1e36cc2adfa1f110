"""The folder of a run, a study or a comparison, in which one process works at a time."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from peml.errors import RunError
from peml.files import refuse_sealed
from peml.locks import LOCK, lock_folder
from peml.tasks.yaml_file import read_yaml

ConfigT = TypeVar("ConfigT")


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

    def fixed(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a config file without what is `free`."""
        left = copy.deepcopy(content)
        for section, _, name in (path.rpartition(".") for path in self.free):
            part = left
            for key in filter(None, section.split(".")):
                part = part.get(key) or {}
            part.pop(name, None)
        return left

    def _begun_with(self) -> dict[str, Any]:
        """The `fixed` content that the work began with; empty if nothing says it."""
        return {}

    def _edited(self) -> str:
        """Says how the config was edited since; the work that is done has other settings.

        Settings that only one of the two has are of another version of PEML.
        """
        changed = differences(*_shared(self._begun_with(), read_yaml(self.path / self.config_file)))
        return f"{self.config_file} was edited: {changed}" if changed else ""

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


def _shared(old: Any, new: Any) -> tuple[Any, Any]:
    """Two nested mappings, with the keys that both have."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    both = {key: _shared(old[key], new[key]) for key in old if key in new}
    return {k: pair[0] for k, pair in both.items()}, {k: pair[1] for k, pair in both.items()}


def differences(old: Any, new: Any) -> str:
    """The first five differences between two nested mappings, as text; empty if they are equal."""
    changed = list(_changes(old, new))
    return "; ".join(changed[:5]) + ("; ..." if len(changed) > 5 else "")


def _changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _changes(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield f"{prefix[:-1]} was {old!r} and is {new!r}"
