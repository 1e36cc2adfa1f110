"""The base of all errors of the project.

Every error a user can cause has three parts: what was wrong with the value shown, what is allowed,
and what to do next. The command line prints them without a traceback.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

# A database's URL, a misspelt one as well: its scheme, what stands before the last @ that can
# belong to it, host and name, the query.
_DATABASE_URL = re.compile(
    r"(\b(?!https?:|ftp:|file:|sqlite)[a-z][a-z0-9+.-]*://"
    r"|\b(?:postgres|postgresql|mysql|mariadb|oracle|mssql)(?:\+\w+)?\s?(?::/?(?!/)|//))"
    r"((?:(?!://)[^\n])*@)?([^\s'\"?]*)(\?[^\s'\"]*)?",
    re.IGNORECASE,
)
_PLAIN_USER = re.compile(r"[\w.-]*(:\*\*\*)?@")
_PLAIN_PLACE = re.compile(r"([\w.-]*|\[[\da-f:.]*\])(:\d+)?(/[\w./~+-]*)?[,.;:)]*")
_ASSIGNED = re.compile(r"\b(password|passwd|pwd|sslpassword)=[^&\s'\"]+", re.IGNORECASE)
# What a query may say aloud; a driver may take a password under many names.
_OPEN_QUERY = frozenset(
    ["application_name", "charset", "connect_timeout", "dbname", "host", "passfile", "port"]
) | {"service", "sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "user"}
_HIDDEN = "***"


class PemlError(Exception):
    """Base of all errors a user can act on.

    Args:
        problem: What was wrong, with the offending value, file, row or field.
        allowed: What would have been accepted.
        action: What to do next.
        field: Name of the wrong field of a row, if the error is about one.
    """

    def __init__(
        self, problem: str, *, allowed: str = "", action: str = "", field: str = ""
    ) -> None:
        # Messages show the value that was wrong, whatever was written there.
        problem, allowed, action = map(without_passwords, (problem, allowed, action))
        self.problem = problem
        self.allowed = allowed
        self.action = action
        self.field = field
        parts = [problem, allowed and f"Allowed: {allowed}", action and f"Next: {action}"]
        super().__init__("\n".join(part for part in parts if part))


class ConfigError(PemlError):
    """A config file or an override can't be used."""


class TaskError(PemlError):
    """A task or suite definition can't be used."""


class DataError(PemlError):
    """A data file, split, row or field can't be used."""


class ModelError(PemlError):
    """A base model can't be loaded or doesn't fit the tasks."""


class InjectionError(ModelError):
    """A prefix can't be put in front of a model's attention."""


class TrainingError(PemlError):
    """Training can't continue (a loss that is not finite, no rows, ...)."""


class CheckpointError(PemlError):
    """A checkpoint or a saved model is incomplete, altered or of another format."""


class RunError(PemlError):
    """A run folder can't be used as requested."""


def without_passwords(text: str) -> str:
    """A text in which anything that may be a password in a database's URL becomes ``***``."""
    return _ASSIGNED.sub(rf"\1={_HIDDEN}", _DATABASE_URL.sub(_without_password, text))


def _without_password(url: re.Match[str]) -> str:
    scheme, user, place, query = (part or "" for part in url.groups())
    if user and not _PLAIN_USER.fullmatch(user):
        user = f"{_name_of(user)}{_HIDDEN}@"
    if not _PLAIN_PLACE.fullmatch(place):
        place = _HIDDEN
    pairs = [pair.partition("=") for pair in query[1:].split("&")] if query else []
    shown = [f"{key}={value if key in _OPEN_QUERY else _HIDDEN}" for key, _, value in pairs]
    return f"{scheme}{user}{place}{'?' if query else ''}{'&'.join(shown)}"


def _name_of(user: str) -> str:
    """The user's name with its colon, if it can be told apart from the password for sure."""
    name, colon, _ = user.partition(":")
    return f"{name}:" if colon and re.fullmatch(r"[\w.-]+", name) and user.count("@") == 1 else ""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest valid name, or an empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Puts a place, such as a file or a row, in front of the message of an error about data.

    An empty place leaves the error as it is.
    """
    try:
        yield
    except DataError as error:
        if not where:
            raise
        problem = f"{where}: {error.problem}"
        raise DataError(
            problem, allowed=error.allowed, action=error.action, field=error.field
        ) from error


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Replaces names in the messages of errors by those that the caller's user has written."""
    try:
        yield
    except PemlError as error:
        problem, allowed, action = error.problem, error.allowed, error.action
        for name, written in names.items():
            problem, allowed, action = (
                text.replace(name, written) for text in (problem, allowed, action)
            )
        raise type(error)(problem, allowed=allowed, action=action, field=error.field) from error
