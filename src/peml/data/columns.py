"""Reads the values of a column in the same way for files, data sets and lists of rows.

All rows are inspected first (``see``, then ``finish``), before any value is converted (``read``).
"""

from typing import Any, NamedTuple

import pyarrow as pa

from peml.data.kinds import ARROW_TYPES, Parse, kind_of, parse_any, parse_option, parse_text
from peml.tasks import ClassReading, Task, explain_ambiguity, find_loosely, is_reversed, read_class

_KEEPING = (parse_any, parse_text, parse_option)
_LARGEST = 2**53  # up to here a float holds every whole number


class ColumnError(ValueError):
    """A problem with a whole column; ``place`` is a row that shows it."""

    def __init__(self, problem: str, place: str) -> None:
        super().__init__(problem)
        self.place = place


class Column:
    """A column whose values are all of one kind.

    `allowed` describes the allowed values, for messages; an `optional` column may lack values.
    """

    def __init__(self, parse: Parse, allowed: str, *, optional: bool = False) -> None:
        self.allowed = allowed
        self.optional = optional
        self._parse = parse
        self._kinds: dict[str, str] = {}  # and the first row of each
        self._large = ""

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of the converted values, after `finish`."""
        kinds = set(self._kinds)
        return ARROW_TYPES["number" if len(kinds) > 1 else kinds.pop() if kinds else "text"]

    def see(self, value: Any, place: str) -> None:
        """Inspects the value of a row.

        Raises:
            ValueError: Its kind is not allowed, or differs from earlier rows.
        """
        parsed = self.read(value)
        if parsed is None:
            if not self.optional:
                raise ValueError("null, and every row needs a value")
            return
        kind = kind_of(parsed)
        if kind is None:
            raise ValueError(f"{value!r} can't be used")
        if kind not in self._kinds:
            self._add(kind, value, place)
        if kind == "integer" and abs(parsed) > _LARGEST:
            self._large = self._large or place

    def finish(self) -> None:
        """Decides how the column is converted; called after all rows were inspected.

        Raises:
            ColumnError: Its values don't fit together.
        """
        if self._large and "number" in self._kinds:
            raise ColumnError(
                f"the integer is too large to stand beside fractions ({self._kinds['number']})",
                self._large,
            )

    def read(self, value: Any) -> Any:
        """The converted value."""
        return None if value is None else self._parse(value)

    def passes(self, kind: pa.DataType) -> bool:
        """Whether values of an Arrow type need no conversion."""
        return self._parse in _KEEPING and bool(kind == self.arrow_type)

    def keeps_texts(self) -> bool:
        """Whether texts need no conversion, so that inspecting one is enough."""
        return self._parse in _KEEPING

    def _add(self, kind: str, value: Any, place: str) -> None:
        for other, where in self._kinds.items():
            if {kind, other} != {"integer", "number"}:
                raise ValueError(f"{value!r} is {_a(kind)}, and {where} holds {_a(other)}")
        self._kinds[kind] = place


class _Met(NamedTuple):
    """A label of a column, and its first row."""

    value: Any
    reading: ClassReading
    place: str


class ClassColumn(Column):
    """A column of class labels, converted to the labels' names.

    A column holds names or indices, not both. If a number could be either, the other rows decide.
    Sources that are not `typed`, such as CSV, don't distinguish texts from numbers; `stored` are
    the source's names of the integers, if it has any.
    """

    def __init__(self, task: Task, *, typed: bool, stored: tuple[str, ...] | None) -> None:
        super().__init__(self._label, "names of labels, or their indices")
        self._task = task
        self._typed = typed
        self._stored = stored
        self._readings: dict[tuple[type, Any], ClassReading] = {}
        self._labels: dict[tuple[type, Any], str] = {}
        self._nameless: _Met | None = None  # the first of each
        self._indexless: _Met | None = None
        self._differing: _Met | None = None

    @property
    def arrow_type(self) -> pa.DataType:
        """Texts."""
        return ARROW_TYPES["text"]

    @property
    def holds_indices(self) -> bool:
        """Whether the column turned out to hold indices, and the task doesn't say so."""
        told = self._task.columns.label in self._task.columns.kinds
        return self._nameless is not None and not told

    def see(self, value: Any, place: str) -> None:
        """Inspects the label of a row.

        Raises:
            ValueError: It is not a label of the task.
        """
        if value is None:
            raise ValueError("null, and every row needs a label")
        if isinstance(value, (str, int)) and (type(value), value) in self._readings:
            return
        reading = self._reading(value)
        self._readings[type(value), value] = reading
        met = _Met(value, reading, place)
        if reading.by_name is None:
            self._nameless = self._nameless or met
        elif reading.by_index is None:
            self._indexless = self._indexless or met
        elif reading.by_name != reading.by_index:
            self._differing = self._differing or met

    def finish(self) -> None:
        """Decides whether numbers are names or indices.

        Raises:
            ColumnError: Both are possible, or neither fits all rows.
        """
        named, indexed = self._indexless, self._nameless
        if named and indexed:
            raise ColumnError(
                f"{indexed.value!r} can only be the index of a label, and {named.value!r} "
                f"({named.place}) only the name of one",
                indexed.place,
            )
        if self._differing and not named and not indexed:
            value, reading, place = self._differing
            raise ColumnError(explain_ambiguity(self._task, value, reading), place)
        labels = self._task.labels
        if indexed and self.holds_indices and is_reversed(labels):
            raise ColumnError(
                f"{indexed.value} is ambiguous: 1 is the index of {labels[1]!r}, and may mean "
                f"{labels[0]!r}; list the labels as [{labels[1]}, {labels[0]}] if it does, or set "
                f"columns.kinds: {{{self._task.columns.label}: number}} for indices",
                indexed.place,
            )
        for met, reading in self._readings.items():
            label = reading.by_name if self._nameless is None else reading.by_index
            if label is not None:  # it never is
                self._labels[met] = self._task.labels[label]

    def _label(self, value: Any) -> str:
        return self._labels[type(value), value]

    def _reading(self, value: Any) -> ClassReading:
        told = self._task.columns.kinds.get(self._task.columns.label)
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if self._stored is None or told == "number" or not is_integer:
            return read_class(self._task, value, typed=self._typed)
        if not 0 <= value < len(self._stored):
            raise ValueError(
                f"{value} is none of the {len(self._stored)} labels stored beside the column"
                + (": it marks rows without a label" if value == -1 else "")
            )
        name, labels = self._stored[value], self._task.labels
        place = find_loosely(name, labels)
        if place is not None:
            return ClassReading(place, None)
        try:
            return read_class(self._task, name)
        except ValueError as error:
            raise ValueError(
                f"{value} is stored as {name!r}, which is no label of the task; stored are "
                f"{_in_order(self._stored)}, the task's labels are {_in_order(labels)}"
            ) from error


def _in_order(names: tuple[str, ...]) -> str:
    return ", ".join(f"{index} {name!r}" for index, name in enumerate(names))


def _a(kind: str) -> str:
    articles = {"text": "a text", "integer": "a number", "number": "a number"}
    return articles.get(kind, kind)
