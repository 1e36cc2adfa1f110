"""Describes pydantic's errors in a config, a definition or a file in plain words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from peml.errors import nearest
from peml.other_names import OTHER_NAMES
from peml.removed import why_removed

Location = tuple[int | str, ...]
"""Keys and places in lists, from the whole down to a value."""

_IN_WORDS = "in_words"
_CHOICES = ("enum", "literal_error")
_SECTIONS = ("dict_type", "model_attributes_type", "model_type")
_PLAIN = {
    **dict.fromkeys(_SECTIONS, "should be a section, {KEY: VALUE}"),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list, [VALUE, ...]"),
    **dict.fromkeys(("float_parsing", "float_type"), "should be a number"),
    **dict.fromkeys(("int_from_float", "int_parsing", "int_type"), "should be a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "should be true or false"),
    "string_type": "should be a text",
    "too_short": "should not be empty",
}
"""Kinds of errors, in plainer words than pydantic's."""


def describe_problems(
    error: ValidationError,
    model: type[BaseModel],
    rename: Callable[[Location], Location] = lambda location: location,
) -> list[str]:
    """One line per problem, each with its key.

    A validator that raises a ``ValueError`` of several lines has found several problems. ``rename``
    maps the location of a problem to the one at which the user wrote it.
    """
    lines = []
    for item in _without_consequences(error.errors()):
        place = _spell(rename(item["loc"]))
        lines += [f"{place}: {text}" if place else text for text in _texts(item, model)]
    return list(dict.fromkeys(lines))


def _without_consequences(items: Sequence[Any]) -> Iterator[Any]:
    """The errors, but for lists that are empty because their values are wrong."""
    for item in items:
        within = (other["loc"][: len(item["loc"])] == item["loc"] for other in items)
        if item["type"] != "too_short" or sum(within) == 1:
            yield item


def list_problems(subject: str, problems: Sequence[str]) -> str:
    """A message with the number of problems of a subject, and a line for each."""
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{subject} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems)


def in_words(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """The same error with its final texts.

    For a validator that chooses the model itself, since callers can't know that model's keys.
    """
    return problems_at(
        model.__name__,
        (
            (item["loc"], text, item["input"])
            for item in error.errors()
            for text in _texts(item, model)
        ),
    )


def problems_at(title: str, problems: Iterable[tuple[Location, str, Any]]) -> ValidationError:
    """An error of a validator that knows the location, the text and the value of each problem."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(_IN_WORDS, "{text}", {"text": text}), loc=location, input=value
        )
        for location, text, value in problems
    ]
    return ValidationError.from_exception_data(title, details)


def shown(value: Any, width: int = 60) -> str:
    """A value as shown in messages, cut if it is long."""
    text = repr(value)
    return text if len(text) <= width else f"{text[:width]}..."


def _texts(item: Any, model: type[BaseModel]) -> list[str]:
    kind, given = item["type"], item["input"]
    message = _PLAIN.get(kind, item["msg"])
    if kind == _IN_WORDS:
        return [message]
    if kind == "missing":
        return [_missing(model, item["loc"])]
    removed = why_removed(item["loc"], given)
    if kind == "extra_forbidden" and removed:
        return [f"{removed}; leave it out"]
    if kind == "extra_forbidden":
        return [f"unknown key.{_hint(model, item['loc'])}"]
    if kind in _CHOICES:
        valid = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        if removed := why_removed(item["loc"], given, valid):
            return [f"{removed}; allowed: {', '.join(valid)}"]
        return [f"{given!r} is not one of {', '.join(valid)}.{nearest(str(given), valid)}"]
    hint = "; put it in quotes" if kind == "string_type" and isinstance(given, int | float) else ""
    value = "" if isinstance(given, dict | BaseModel) else f" (got {shown(given)}{hint})"
    if kind == "value_error":
        message = str(item["ctx"]["error"])
    if kind in _SECTIONS and isinstance(given, str):
        message = "should be a section"
        sections = _models_at(model, item["loc"])
        if any(_is_named_only(section) for section in sections):
            message = f"should be a section, such as {{name: {given}}}"
    return [f"{line}{value}" for line in message.splitlines()]


def _spell(location: Location) -> str:
    """A location such as ``tasks[3].labels``."""
    text = ""
    for part in location:
        if part != "[key]":  # pydantic's mark of a mapping's key that is wrong itself
            text += (
                f"[{part}]" if text and isinstance(part, int) else f"{'.' if text else ''}{part}"
            )
    return text


def _hint(model: type[BaseModel], location: Location) -> str:
    """What may have been meant by an unknown key: one of another section, or one of this one."""
    key, valid = str(location[-1]), _keys_at(model, location[:-1])
    elsewhere = _sections_with(key, model)
    if "" in elsewhere:
        return f" Did you mean '{key}' at the top of the file, not in '{_spell(location[:-1])}'?"
    places = [f"{section}.{key}" for section in elsewhere]
    other = OTHER_NAMES.get(key, "")
    name = other.split(".")[-1]
    if name in valid:
        places.append(name)
    elif other.split(".")[0] in model.model_fields:
        places.append(other)
    if places:
        return f" Did you mean {' or '.join(repr(place) for place in places)}?"
    return nearest(key, valid) or f" Valid here: {', '.join(sorted(valid))}."


def _sections_with(key: str, model: type[BaseModel], section: str = "") -> list[str]:
    """The sections of a model that have a key; the model's own is the empty text."""
    found = [section] if key in model.model_fields else []
    for name, field in model.model_fields.items():
        inner = f"{section}.{name}" if section else name
        for each in _models_in(field.annotation):
            found += _sections_with(key, each, inner)
    return found


def _missing(model: type[BaseModel], location: Location) -> str:
    """The message for a key that is missing, with what it is for."""
    for owner in _models_at(model, location[:-1]):
        field = owner.model_fields.get(str(location[-1]))
        if field is not None and field.description:
            return f"missing. {' '.join(field.description.split())}"
    return "missing"


def _is_named_only(section: type[BaseModel]) -> bool:
    """Whether a section has a name, and nothing else has to be given."""
    others = (field for key, field in section.model_fields.items() if key != "name")
    return "name" in section.model_fields and not any(field.is_required() for field in others)


def _keys_at(model: type[BaseModel], location: Location) -> set[str]:
    """The keys that are valid in the section at a location."""
    return {key for found in _models_at(model, location) for key in found.model_fields}


def _models_at(model: type[BaseModel], location: Location) -> list[type[BaseModel]]:
    """The models that the section at a location may be."""
    here: Any = model
    for part in location:
        owner = next((one for one in _models_in(here) if part in one.model_fields), None)
        if get_origin(here) is dict:
            here = get_args(here)[1]
        elif owner is not None:
            here = owner.model_fields[str(part)].annotation
    return _models_in(here)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation such as ``tuple[Task, ...]`` or ``Scale | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
