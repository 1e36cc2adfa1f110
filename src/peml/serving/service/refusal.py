"""Errors that the service answers: an HTTP status, and JSON of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peml.errors import PemlError

_LONGEST = 1000  # characters of a message, which may show what was sent


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        kind: Word for programs, such as ``invalid_json``.
        message: What was wrong, with the value.
        remedy: What to do next.
        field: Path of what was wrong in the body, such as ``rows[2].headline``.
        allowed: What would have been accepted.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        remedy: str,
        field: str = "",
        allowed: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.remedy = remedy
        self.field = field
        self.allowed = allowed
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: PemlError, *, status: int = 422, kind: str, field: str = "") -> RefusedError:
        """Turns an error of PEML into a refusal."""
        return cls(
            status,
            kind,
            error.problem,
            remedy=error.action,
            field=field or error.field,
            allowed=error.allowed,
        )

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "error": {
                "type": self.kind,
                "message": _short(self.message),
                "field": _short(self.field) or None,
                "allowed": _short(self.allowed) or None,
                "remedy": _short(self.remedy),
            }
        }


def _short(text: str) -> str:
    # Half a character (a lone surrogate) can't be sent.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
