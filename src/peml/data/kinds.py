"""Kinds of values, and parsing values as a kind."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from peml.tasks.columns import FieldKind
from peml.tasks.matching import read_boolean, spell_number

ANY_KIND = "a text, a number, true or false, or a list of texts"

ARROW_TYPES: Mapping[str, pa.DataType] = MappingProxyType(
    {
        "text": pa.string(),
        "a list of texts": pa.list_(pa.string()),
        "integer": pa.int64(),
        "number": pa.float64(),
        "true or false": pa.bool_(),
    }
)
"""The Arrow type of each kind."""

Parse = Callable[[Any], Any]
"""Converts a value of a file, or raises a ValueError."""


def kind_of(value: Any) -> str | None:
    """The name of a value's kind, or None."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number" if math.isfinite(value) else None
    if isinstance(value, str):
        return "text"
    is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "a list of texts" if is_texts else None


def parse_any(value: Any) -> Any:
    """A value of any kind, as it is."""
    if kind_of(value) is None:
        raise ValueError(f"{value!r} is not {ANY_KIND}")
    return value


def parse_single(value: Any) -> Any:
    """A value of any kind but a list, as it is."""
    if isinstance(value, list):
        raise ValueError(f"{value!r} is a list")
    return parse_any(value)


def parse_text(value: Any) -> str:
    """A text, as it is."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def parse_option(value: Any) -> str:
    """A text, or a number as it is spelled."""
    return parse_text(str(spell_number(value)) if _is_number(value) else value)


def parse_options(value: Any) -> list[str]:
    """A list of texts, or of numbers as they are spelled."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r} is not a list of texts")
    return [parse_option(item) for item in value]


def parse_number(value: Any) -> int | float:
    """A finite number."""
    if not _is_number(value):
        raise ValueError(f"{value!r} is not a number")
    return spell_number(value)


def parse_spelled_number(value: Any) -> int | float:
    """A finite number, or a text that spells one."""
    if not isinstance(value, str):
        return parse_number(value)
    try:
        number = float(value) if "_" not in value else math.nan
        exact = int(value) if number.is_integer() and value.strip("+- ").isdecimal() else number
    except ValueError:
        exact = math.nan
    if not math.isfinite(exact):
        comma = "; write decimals with a point, and thousands without a mark" * ("," in value)
        raise ValueError(f"{value!r} is not a number{comma}")
    if isinstance(exact, int) and not -(2**63) <= exact < 2**63:
        raise ValueError(f"{value!r} needs more than 64 bits")
    return spell_number(exact)


def _parse_boolean(value: Any) -> bool:
    """True or False, or a text that says so."""
    boolean = read_boolean(value)
    if boolean is None:
        raise ValueError(f"{value!r} is not true or false")
    return boolean


def _parse_list(value: Any) -> list[str]:
    """A list of texts, as it is."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of texts")
    return value


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


PARSERS: Mapping[FieldKind | None, Parse] = MappingProxyType(
    {
        None: parse_any,
        "text": parse_option,
        "number": parse_spelled_number,
        "boolean": _parse_boolean,
        "list": _parse_list,
    }
)
"""How values of a field are parsed, by the kind that its task states (None: it states none)."""
