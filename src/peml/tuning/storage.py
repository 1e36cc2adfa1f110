"""Where a study's trials are kept: a journal file, or a database that may be away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from sqlalchemy import make_url

from peml.errors import ConfigError, RunError
from peml.tuning.settings import StorageSettings

__all__ = ["Patience", "open_storage", "shown_url"]

ValueT = TypeVar("ValueT")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds


def open_storage(settings: StorageSettings, journal: Path) -> BaseStorage:
    """Opens the database, or the journal file where none is named.

    Args:
        settings: The URL.
        journal: Made if it isn't there. No other process may use it, see `lock_folder`.

    Raises:
        ConfigError: The URL can't be used.
    """
    if settings.url is None:
        _mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        try:
            return _open_database(settings.url)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            # Another driver makes the tables of a new database at the same moment.
            time.sleep(_FIRST_PAUSE)
            return _open_database(settings.url)
    except ImportError as error:
        raise ConfigError(
            f"storage.url: the driver of {shown_url(settings.url)} is not installed",
            allowed="for PostgreSQL: pip install 'peml[postgres]'",
            action="install it, or leave out storage.url for a journal file",
        ) from error
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise ConfigError(
            f"storage.url is no database's URL: {error}",
            allowed="such as postgresql+psycopg://user@host/name or sqlite:///study.db",
            action="correct it, or leave it out for a journal file",
        ) from error


def _open_database(url: str) -> RDBStorage:
    # Tests a connection before it is used: the database may have been restarted.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def shown_url(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "the database"


def _mend(journal: Path) -> None:
    """Removes what a process that was killed while it wrote may have left behind."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


class Patience:
    """Repeats what a database that is away did not do.

    Args:
        settings: How long.
        console: Where waiting is announced.
    """

    def __init__(self, settings: StorageSettings, console: Console) -> None:
        self._settings = settings
        self._console = console

    def __call__(self, action: Callable[[], ValueT]) -> ValueT:
        """Calls an action until it succeeds; it must be safe to repeat.

        Raises:
            RunError: The database stayed away.
        """
        since, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return action()
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                reason = _why_away(error)
                if reason is None:
                    raise
                left = self._settings.wait - (time.monotonic() - since)
                self._refuse_or_announce(reason, left, first=pause == _FIRST_PAUSE)
            time.sleep(min(pause, max(left, 0.0)))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _refuse_or_announce(self, reason: str, left: float, *, first: bool) -> None:
        where = shown_url(self._settings.url or "")
        if left <= 0:
            raise RunError(
                f"{where} is away, and was for {self._settings.wait:g} seconds: {reason}",
                allowed="a database that answers within storage.wait seconds",
                action="start it and run the same command again: nothing is lost, and trials "
                "that were running go on",
            )
        if first:
            text = f"{where} is away, waiting up to {left:.0f} seconds: {reason}"
            self._console.print(text, style="yellow", markup=False, soft_wrap=True)


def _why_away(error: BaseException) -> str | None:
    """What a database that can't be reached said; None if it is something else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)):
            return " ".join(str(cause.orig).split())
        cause = cause.__cause__
    return None
