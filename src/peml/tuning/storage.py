"""Storage of a study's trials: a journal file, or a database that may be down for a while."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from sqlalchemy import URL, make_url

from peml.errors import ConfigError, RunError, without_passwords
from peml.tuning.settings import StorageSettings

ValueT = TypeVar("ValueT")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds

_ALLOWED = "such as postgresql+psycopg://user@host/name or sqlite:///study.db"


def open_storage(settings: StorageSettings, journal: Path) -> BaseStorage:
    """Opens the database, or the journal file if the config names no database.

    The journal file is created if it is missing. No other process may use it, see `lock_folder`.

    Raises:
        ConfigError: The URL can't be used.
    """
    if settings.url is None:
        _mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    if _parsed(settings.url) is None:
        raise ConfigError(
            "storage.url is no database's URL; it is not shown, since a password may be in it",
            allowed=_ALLOWED,
            action="correct it (write @, /, :, # and ? in a password as %40, %2F, %3A, %23 and "
            "%3F), or leave it out for a journal file",
        )
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
            f"storage.url is no database's URL: there is no driver for {shown_url(settings.url)}",
            allowed=_ALLOWED,
            action="correct it, or leave it out for a journal file",
        ) from error


def _open_database(url: str) -> RDBStorage:
    # Tests a connection before it is used: the database may have been restarted.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def shown_url(url: str) -> str:
    """The URL without anything that may be a password, for messages and files."""
    return "the database" if _parsed(url) is None else without_passwords(url)


def _parsed(url: str) -> URL | None:
    """The URL's parts; None where it is none, or where a password may have slipped into another.

    A reserved character that a password holds as it is ends up in the host, the port or the name.
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    if parsed.drivername.startswith("sqlite"):  # a file's name, and no password
        return parsed
    elsewhere = f"{parsed.host or ''}{parsed.database or ''}"
    if any(sign in elsewhere for sign in "@:;=#&?") and "[" not in url:
        return None
    return None if ":" in (parsed.username or "") else parsed


def _hide(url: str | None, text: str) -> str:
    """A database driver's message, without the URL's password and query values."""
    parsed = None if url is None else _parsed(url)
    if parsed is None:
        return text
    secrets = [parsed.password, *parsed.query.values()]
    for secret in secrets:
        for part in (secret,) if isinstance(secret, str) else secret or ():
            text = text.replace(part, "***") if part else text
    return text


def _mend(journal: Path) -> None:
    """Removes a half-written last line, which a process that was killed may have left."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):  # Optuna renames it to remove it
        lock.unlink()
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


class Patience:
    """Repeats calls while the database can't be reached."""

    def __init__(self, settings: StorageSettings, console: Console) -> None:
        self._settings = settings
        self._console = console

    def __call__(self, action: Callable[[], ValueT]) -> ValueT:
        """Calls an action until it succeeds; it must be safe to repeat.

        Raises:
            RunError: The database couldn't be reached for too long.
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
                reason = _hide(self._settings.url, reason)
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
                "that were running continue",
            )
        if first:
            text = f"{where} is away, waiting up to {left:.0f} seconds: {reason}"
            self._console.print(text, style="yellow", markup=False, soft_wrap=True)


def _why_away(error: BaseException) -> str | None:
    """The message of a database that can't be reached; None if the error is of another kind."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)):
            return " ".join(str(cause.orig).split())
        cause = cause.__cause__
    return None
