"""The value of a missing field in templates."""

from typing import Final


class Null:
    """A None that prints as an empty text, so that no prompt contains the word None.

    It is false and equals None. Replacing None only when a template prints it would be too late,
    since Jinja's filters and ``~`` turn values into text before.
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
