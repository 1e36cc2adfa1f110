"""Registries of things that packages can add by name: methods, operations, formats, families."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from peml.errors import ConfigError, nearest

T = TypeVar("T")


@dataclass(eq=False)
class Registry(Generic[T]):
    """Things of one kind by name: the built-in ones, and those of installed packages.

    Names are known without imports. A thing is imported when it is requested, so a package that
    can't be imported only affects those who use it.

    Attributes:
        group: Entry point group of packages that add things.
        kind: The kind in messages, such as ``method``.
        built_in: Name to ``module:attribute``, as in an entry point.
        own_name: Returns a thing's own name, which must equal the entry's.
    """

    group: str
    kind: str
    built_in: Mapping[str, str]
    own_name: Callable[[T], str] | None = None
    _entries: dict[str, EntryPoint] = field(default_factory=dict)
    _loaded: dict[str, T] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """All names, sorted.

        Raises:
            ConfigError: A package adds a name that is taken, or malformed.
        """
        return tuple(sorted(self._found()))

    def load(self, name: str, action: str) -> T:
        """The thing with this name; ``action`` is the advice if there is none.

        Raises:
            ConfigError: There is none, it can't be imported, or its own name differs.
        """
        entries = self._found()
        if name not in entries:
            raise ConfigError(
                f"there is no {self.kind} {name!r}.{nearest(name, entries)}",
                allowed=", ".join(self.names()),
                action=action,
            )
        if name not in self._loaded:
            self._loaded[name] = self._import(entries[name])
        return self._loaded[name]

    def load_all(self) -> dict[str, T]:
        """All things by name."""
        return {name: self.load(name, "") for name in self.names()}

    def refresh(self) -> None:
        """Searches installed packages again, for a session in which one was installed."""
        self._entries, self._loaded = {}, {}

    def _found(self) -> Mapping[str, EntryPoint]:
        if not self._entries:
            own = {n: EntryPoint(n, value, self.group) for n, value in self.built_in.items()}
            for entry in entry_points(group=self.group):
                if not re.fullmatch(r"[a-z][a-z0-9+-]*", entry.name):
                    raise ConfigError(
                        f"{entry.name!r} ({entry.value}) can't be the name of the {self.kind}",
                        allowed="lower-case letters, digits, + and -, a letter first",
                        action="correct the entry point of the package",
                    )
                if entry.name in own:
                    raise ConfigError(
                        f"the {self.kind} {entry.name!r} is defined twice, the second time by "
                        f"{entry.value}",
                        allowed=f"one {self.kind} per name",
                        action=f"uninstall one of the packages, or rename its {self.kind}",
                    )
                own[entry.name] = entry
            self._entries = own
        return self._entries

    def _import(self, entry: EntryPoint) -> T:
        try:
            found: T = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the {self.kind} {entry.name!r} ({entry.value}) can't be imported: {error}",
                allowed="an entry point MODULE:ATTRIBUTE that Python can import",
                action="repair or uninstall the package that adds it",
            ) from error
        own = self.own_name(found) if self.own_name else entry.name
        if own != entry.name:
            raise ConfigError(
                f"the {self.kind} {entry.name!r} ({entry.value}) is called {own!r} itself",
                allowed=f"an entry point of the {self.kind}'s own name",
                action="correct the package's entry point, or the name in its class",
            )
        return found
