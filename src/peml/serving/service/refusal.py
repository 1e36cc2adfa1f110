"""Errors that the service answers: an HTTP status, and JSON of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from peml.errors import PemlError

_LONGEST = 1000  # characters of a message, which may show what was sent


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        kind: Word for programs, such as ``invalid_json``.
        remedy: What to do next.
        field: Path of what was wrong in the body, such as ``rows[2].headline``.
        allowed: What would have been accepted.
    """

    status: int
    kind: str
    message: str
    _: KW_ONLY
    remedy: str
    field: str = ""
    allowed: str = ""
    headers: Mapping[str, str] | None = None

    @classmethod
    def of(cls, error: PemlError, *, status: int = 422, kind: str, field: str = "") -> RefusedError:
        """Turns an error of PEML into a refusal."""
        remedy, allowed, where = error.action, error.allowed, field or error.field
        return cls(status, kind, error.problem, remedy=remedy, field=where, allowed=allowed)

    @classmethod
    def invalid(
        cls, message: str, field: str, allowed: str, remedy: str = "correct the body"
    ) -> RefusedError:
        """The refusal of a field that is wrong."""
        return cls(422, "invalid_request", message, field=field, allowed=allowed, remedy=remedy)

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
