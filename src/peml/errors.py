"""The one error base of the project.

Every error a user can cause has three parts: what was wrong with the value shown, what is
allowed, and what to do next. The command line prints them without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InjectionError",
    "ModelError",
    "PemlError",
    "RunError",
    "TaskError",
    "TrainingError",
    "nearest",
    "placed",
]


class PemlError(Exception):
    """Base of all errors a user can act on.

    Args:
        problem: What was wrong, with the offending value, file, row or field.
        allowed: What would have been accepted.
        action: What to do next.
    """

    def __init__(self, problem: str, *, allowed: str = "", action: str = "") -> None:
        self.problem = problem
        self.allowed = allowed
        self.action = action
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
    """Training can't go on (a loss that is not finite, no rows, ...)."""


class CheckpointError(PemlError):
    """A checkpoint or a saved model is incomplete, altered or of another format."""


class RunError(PemlError):
    """A run folder can't be used as asked."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest valid name, or an empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Puts a place, such as a file or a row, in front of what was wrong with data within.

    Args:
        where: The place; an empty one leaves the error as it is.
    """
    try:
        yield
    except DataError as error:
        if not where:
            raise
        problem = f"{where}: {error.problem}"
        raise DataError(problem, allowed=error.allowed, action=error.action) from error
