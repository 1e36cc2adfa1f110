"""Strict JSON: refuses values that can't be stored exactly.

JSON allows duplicate keys and integers of any length, and Python also reads NaN and lone
surrogates (halves of characters). All of these are refused.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

_LEAST, _MOST = -(2**63), 2**63 - 1
_MOST_DIGITS = 20  # of a whole number of 64 bits, its sign included; Python refuses 4,300 and more
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Unusable:
    """A number in JSON that can't be used."""

    text: str
    problem: str


def read_json_row(text: str) -> Any:
    """Reads JSON; numbers that can't be kept become :class:`Unusable`.

    Raises:
        ValueError: It is not JSON, nested too deeply, or an object holds a key twice.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def why_unusable(value: Any) -> str:
    """The problem with a value of a row; empty if there is none."""
    if isinstance(value, str):
        return "" if value.isascii() else _half_character(value)
    if isinstance(value, Unusable):
        return f"{_short(value.text)} {value.problem}"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is not a finite number"
    if isinstance(value, int):
        return "" if _LEAST <= value <= _MOST else f"{value} {_TOO_LARGE}"
    if isinstance(value, list):
        return next(filter(None, map(why_unusable, value)), "")
    if isinstance(value, dict):
        return next(filter(None, map(why_unusable, (*value, *value.values()))), "")
    return ""


def describe_bad_byte(error: UnicodeDecodeError) -> str:
    """The byte that is not UTF-8, and the text before it."""
    before = error.object[max(0, error.start - _SHOWN // 2) : error.start]
    return f"byte 0x{error.object[error.start]:02x} after {before.decode(errors='replace')!r}"


def _half_character(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(0, error.start - _SHOWN // 2) : error.start]
        return (
            f"the text holds half a character, \\u{ord(text[error.start]):04x} (a lone surrogate), "
            f"after {before!r}"
        )
    return ""


_TOO_LARGE = "needs more than 64 bits"


def _whole(text: str) -> int | Unusable:
    return int(text) if len(text) <= _MOST_DIGITS else Unusable(text, _TOO_LARGE)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the column {repeated!r} is there twice")
    return row


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_whole,
    parse_constant=lambda text: Unusable(text, "is not a number in JSON"),
)
