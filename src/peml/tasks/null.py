"""What a template sees of a field that has no value in a row."""

from __future__ import annotations

from typing import Final


class Null:
    """None that prints as nothing, so that the word None stands in no prompt.

    It is false and equals None. Jinja's filters and ``~`` turn what they get into text, so printing
    None as nothing at the end would come too late.
    """

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def __repr__(self) -> str:
        return ""


NULL: Final = Null()
