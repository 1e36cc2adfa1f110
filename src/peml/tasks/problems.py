"""Saying everything that is wrong with a definition at once, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from peml.errors import nearest

__all__ = ["describe_problems"]


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Returns one line per problem, each with the key it is about.

    Args:
        error: What validation of ``model`` raised.
        model: The validated model; unknown keys are answered with its nearest valid one.
    """
    return [line for details in error.errors() for line in _describe(dict(details), model)]


def _describe(details: dict[str, Any], model: type[BaseModel]) -> Iterator[str]:
    location: tuple[str | int, ...] = details["loc"]
    where = _spell(location)
    if details["type"] == "extra_forbidden":
        valid = _model_at(model, location[:-1]).model_fields
        yield f"{where}: unknown key.{nearest(str(location[-1]), valid)}"
    elif details["type"] == "missing":
        yield f"{where}: missing"
    elif details["type"] == "value_error":
        prefix = f"{where}: " if where else ""
        for part in str(details["ctx"]["error"]).split("; "):
            yield f"{prefix}{part}"
    elif details["type"] == "enum":
        valid_values = details["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        guess = nearest(str(details["input"]), valid_values.split(", "))
        yield f"{where}: {details['input']!r} is not one of {valid_values}.{guess}"
    else:
        shown = "" if isinstance(details["input"], (dict, list)) else f" (is {details['input']!r}"
        hint = "; put it in quotes" if isinstance(details["input"], bool) else ""
        yield f"{where}: {details['msg']}{shown}{hint + ')' if shown else ''}"


def _spell(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _model_at(model: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model an annotation such as ``tuple[Task, ...]`` or ``Scale | None`` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
