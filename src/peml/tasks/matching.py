"""Matching values to the names of labels, options or keys."""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

_LARGEST = 2**53  # up to here a float holds every whole number
_BOOLEANS = {
    **dict.fromkeys(("True", "true", "TRUE"), True),  # spreadsheets write TRUE
    **dict.fromkeys(("False", "false", "FALSE"), False),
}
_SHOWN = 24  # code points of a text in a message


def find_names(text: str, names: Sequence[str]) -> list[int]:
    """Indices of the names that equal a text, in either Unicode form of accented letters."""
    exact = [index for index, name in enumerate(names) if name == text]
    if exact:
        return exact
    composed = _composed(text)
    return [index for index, name in enumerate(names) if _composed(name) == composed]


def find_value(value: Any, names: Sequence[str]) -> list[int]:
    """Indices of the names that a text, a number or a boolean spells.

    ``1``, `` 1`` and 1.0 spell each other, and so do True, ``true`` and ``TRUE``.
    """
    if not isinstance(value, (str, int, float)):
        return []
    found, number, boolean = find_names(str(value), names), read_integer(value), read_boolean(value)
    if found:
        return found
    if boolean is not None:
        return find_names(str(boolean), names) or find_names(str(boolean).lower(), names)
    if number is None:
        return []
    exact = find_names(str(number), names)
    return exact or [index for index, name in enumerate(names) if read_integer(name) == number]


def find_loosely(text: str, names: Sequence[str]) -> int | None:
    """Index of the one name that equals a text, if need be apart from case, hyphens and spaces."""
    found = find_names(text, names) or find_names(_loose(text), [_loose(n) for n in names])
    return found[0] if len(found) == 1 else None


def find_twins(names: Sequence[str]) -> Iterator[str]:
    """Messages about names that differ only in their Unicode form."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        twin = seen.setdefault(_composed(name), name)
        if twin != name:
            yield f"{_code_points(twin)} and {_code_points(name)} are the same letters"


def read_integer(value: Any) -> int | None:
    """An integer, also one written as 1.0, or that of a text without leading zeros; else None."""
    if isinstance(value, float):
        value = spell_number(value)
    if not isinstance(value, str):
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    bare = value.strip().removesuffix(".0")
    return int(bare) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", bare) else None


def read_boolean(value: Any) -> bool | None:
    """A boolean, or that of True, true, TRUE, False, false or FALSE; None for all else."""
    if isinstance(value, str):
        return _BOOLEANS.get(value)
    return value if isinstance(value, bool) else None


def spell_number(value: int | float) -> int | float:
    """A number as templates and targets show it: 2.0 becomes 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST:
        return int(value)
    return value


def describe_mismatch(value: Any, names: Sequence[str]) -> str:
    """Suggests the name nearest to a text that is none of them, after a semicolon.

    Empty if none is near, or the value is no text. Shows code points if letters may look alike.
    """
    near = _suggest(value, names) if isinstance(value, str) else ""
    return f"; {near}" if near else ""


def _suggest(text: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(_loose(text), [_loose(name) for name in names], n=1)
    if not near:
        return "" if text.isascii() else _code_points(text)
    name = next(name for name in names if _loose(name) == near[0])
    if text.isascii() and name.isascii():
        return f"did you mean {name!r}?"
    return f"did you mean {name!r}? {_code_points(text)} is not {_code_points(name)}"


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _loose(text: str) -> str:
    return _composed(" ".join(text.replace("-", " ").replace("_", " ").split()).casefold())


def _code_points(text: str) -> str:
    points = [f"U+{ord(letter):04X}" for letter in text[:_SHOWN]]
    return f"{text!r} ({' '.join(points)}{' ...' if len(text) > _SHOWN else ''})"
