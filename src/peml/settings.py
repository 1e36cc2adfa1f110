"""The base of every config section: frozen, and closed to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Settings"]


class Settings(BaseModel):
    """A validated, immutable group of options.

    Each component derives its own section from this class and lives beside it; every field
    carries a description, which is what ``peml config schema`` prints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
