"""Reads a request's body: strict JSON, an object with known keys."""

from collections.abc import Iterable
from typing import Any

from peml.data.plain import read_json_row, why_unusable
from peml.errors import nearest
from peml.serving.service.refusal import RefusedError

_DEEPEST = 16  # objects and lists in each other


def parse_object(
    body: bytes, known: Iterable[str], *, null_is_absent: bool = False
) -> dict[str, Any]:
    """A body's JSON object; refuses anything else, deep nesting and unknown keys.

    `null_is_absent` leaves out the fields that are null, at any depth.
    """
    value = _parse(body)
    if not isinstance(value, dict):
        remedy = "send an object; GET /openapi.json describes it"
        raise RefusedError.invalid(f"the body is {spell_kind(value)}", "", "a JSON object", remedy)
    content: dict[str, Any] = _without_nulls(value) if null_is_absent else value
    names = tuple(known)
    for key in content:
        if key not in names:
            problem = f"there is no field {key!r}.{nearest(key, names)}"
            remedy = "correct the name, or leave it out"
            raise RefusedError.invalid(problem, key, ", ".join(names), remedy)
    return content


def _parse(body: bytes) -> Any:
    try:
        value = read_json_row(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} of the body is not UTF-8", "text in UTF-8") from error
    except ValueError as error:
        raise _invalid(f"the body is not JSON: {error}", "JSON") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for each in level for child in _children(each)]
        if not level:
            break
    else:
        raise _invalid(
            "the body is nested too deeply", f"at most {_DEEPEST} objects and lists in each other"
        )
    if problem := why_unusable(value):
        raise _invalid(f"the body can't be used: {problem}", "numbers and texts that JSON allows")
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _children(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict | list)]


def _invalid(message: str, allowed: str) -> RefusedError:
    return RefusedError(400, "invalid_json", message, allowed=allowed, remedy="correct the body")


def spell_kind(value: Any) -> str:
    """The JSON type of a value, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a text", list: "a list", dict: "an object"}
    return next((said for kind, said in kinds.items() if isinstance(value, kind)), "a number")
