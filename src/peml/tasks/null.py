"""The value of a missing field in templates."""

from typing import Final


class Null(str):
    """A None that is an empty text too, so that no prompt contains the word None.

    A CSV file can't tell a missing value from an empty text. Both are this value, in every format:
    it is false, equals None and ``""``, and has no letters. Replacing None only when a template
    prints it would be too late, since Jinja's filters and ``~`` turn values into text before.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __mul__(self, other: object) -> str:  # an error, as for other arithmetic
        raise TypeError("a field without a value can't be multiplied")

    __hash__ = str.__hash__
    __rmul__ = __mul__


NULL: Final = Null()
