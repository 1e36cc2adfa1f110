"""The environment of templates: no globals, nothing that guesses, nothing that draws."""

from typing import Any

from jinja2 import StrictUndefined, Undefined
from jinja2.filters import do_float, do_int
from jinja2.sandbox import ImmutableSandboxedEnvironment

from peml.tasks.matching import spell_number
from peml.tasks.null import NULL, Null

_PRINTED = (str, int, float, list, tuple, dict, type(None), Undefined)
_NONE_GIVEN: Any = object()


def for_template(value: Any) -> Any:
    """A value as templates have it: 2.0 as 2, None as an empty text."""
    if isinstance(value, float):
        return spell_number(value)
    return NULL if value is None else value


def _print(value: Any) -> Any:
    """A value as templates print it; a method that isn't called, for example, is none."""
    if not isinstance(value, _PRINTED):
        raise TypeError(
            f"{value!r} would be printed, which is no text; call it, or end a chain of filters in "
            "|list, |join or |first"
        )
    return for_template(value)


def _as_int(value: Any, default: Any = _NONE_GIVEN, base: int = 10) -> Any:
    return _number(value, do_int(value, default, base), "int")


def _as_float(value: Any, default: Any = _NONE_GIVEN) -> Any:
    return _number(value, do_float(value, default), "float")


def _number(value: Any, found: Any, name: str) -> Any:
    if found is _NONE_GIVEN:
        raise ValueError(f"{value!r} is no number; |{name}(0) reads what is none as 0")
    return found


SANDBOX = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_print
)
"""Renders the templates of tasks."""

SANDBOX.tests["none"] = lambda value: value is None or isinstance(value, Null)
SANDBOX.filters |= {"int": _as_int, "float": _as_float}  # Jinja's read what is no number as 0
del SANDBOX.filters["random"]  # a row would have another prompt each time
# Prompts don't need lipsum, cycler and so on, and they are a way out of the sandbox.
SANDBOX.globals.clear()
