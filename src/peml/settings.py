"""The base classes of all configs and their sections: frozen, without unknown keys."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """A validated, immutable group of options.

    Each component derives its own section from this class, in its own package; every field has a
    description, which ``peml config schema`` prints: in its `Field`, or as a docstring below it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class ConfigFile(Settings):
    """A config that is written in a file: an empty section has its defaults.

    ``training:`` with nothing below it reads as null, which only counts if null has a meaning.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        required = {
            name
            for name, field in cls.model_fields.items()
            if type(None) not in get_args(field.annotation)
        }
        return {k: v for k, v in written.items() if v is not None or k not in required}
