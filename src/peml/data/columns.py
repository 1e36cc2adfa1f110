"""Reads the values of a column in the same way for files, data sets and lists of rows.

All rows are inspected first (``see``, then ``finish``), before any value is converted (``read``).
"""

from typing import Any, NamedTuple

import pyarrow as pa

from peml.data.kinds import (
    ANY_KIND,
    ARROW_TYPES,
    Parse,
    kind_of,
    parse_any,
    parse_option,
    parse_single,
    parse_spelled_number,
    parse_text,
)
from peml.data.stored_names import stored_name
from peml.tasks import Task
from peml.tasks.classes import ClassReading, explain_ambiguity, is_reversed, read_class
from peml.tasks.conditions import conditions
from peml.tasks.matching import find_loosely, read_boolean, read_integer

_KEEPING = (parse_any, parse_single, parse_text, parse_option)
_LARGEST = 2**53  # up to here a float holds every whole number
_MOST_WRONG = 10  # different values of a label column that are no labels; then nothing more is read


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
            for other, where in self._kinds.items():
                if {kind, other} != {"integer", "number"}:
                    raise ValueError(f"{value!r} is {_a(kind)}, and {where} holds {_a(other)}")
            self._kinds[kind] = place
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

    @property
    def keeps(self) -> bool:
        """Whether values need no conversion, so that inspecting one text is enough."""
        return self._parse in _KEEPING


class _Met(NamedTuple):
    """A label of a column, and its first row."""

    value: Any
    reading: ClassReading
    place: str


class ClassColumn(Column):
    """A column of class labels, converted to the labels' names.

    A column has names or indices, not both. If a number could be either, the other rows decide.
    Sources that are not `typed`, such as CSV, don't distinguish texts from numbers; `stored` are
    the source's names of the integers, if it has any.
    """

    def __init__(self, task: Task, *, typed: bool, stored: tuple[str, ...] | None) -> None:
        self._labels: dict[tuple[type, Any], str] = {}
        super().__init__(
            lambda value: self._labels[type(value), value], "names of labels, or their indices"
        )
        self._task = task
        self._typed = typed
        self._stored = stored
        self._readings: dict[tuple[type, Any], ClassReading] = {}
        self._wrong: dict[tuple[type, Any], ColumnError] = {}
        # The first label that can only be an index, only be a name, and mean either of two labels.
        self._only_index: _Met | None = None
        self._only_name: _Met | None = None
        self._ambiguous: _Met | None = None

    @property
    def arrow_type(self) -> pa.DataType:
        """Texts."""
        return ARROW_TYPES["text"]

    @property
    def holds_indices(self) -> bool:
        """Whether the column turned out to hold indices, and the task doesn't say so."""
        told = self._task.columns.label in self._task.columns.kinds
        return self._only_index is not None and not told

    @property
    def holds_names(self) -> bool:
        """Whether an integer turned out to be the name of a label with another index."""
        labels = self._task.labels
        numbers = ((read_integer(value), name) for (_, value), name in self._labels.items())
        return any(n is not None and labels[n : n + 1] != (name,) for n, name in numbers)

    def see(self, value: Any, place: str) -> None:
        """Inspects the label of a row; `finish` refuses values that are no labels of the task.

        Raises:
            ValueError: It is null, or one wrong value too many.
        """
        if value is None:
            raise ValueError("null, and every row needs a label")
        if not isinstance(value, (str, int, float)):
            self._reading(value)  # refuses it
        key = type(value), value
        if key in self._readings or key in self._wrong:
            return
        try:
            reading = self._reading(value)
        except ValueError as error:
            self._wrong[key] = ColumnError(str(error), place)
            if len(self._wrong) == _MOST_WRONG:
                raise self._refusal() from error
            return
        self._readings[key] = reading
        met = _Met(value, reading, place)
        if reading.by_name is None:
            self._only_index = self._only_index or met
        elif reading.by_index is None:
            self._only_name = self._only_name or met
        elif reading.by_name != reading.by_index:
            self._ambiguous = self._ambiguous or met

    def finish(self) -> None:
        """Decides whether numbers are names or indices.

        Raises:
            ColumnError: Values are no labels, or both are possible, or neither fits all rows.
        """
        if self._wrong:
            raise self._refusal()
        named, indexed = self._only_name, self._only_index
        if named and indexed:
            raise ColumnError(
                f"{indexed.value!r} can only be the index of a label, and {named.value!r} "
                f"({named.place}) only the name of one",
                indexed.place,
            )
        if self._ambiguous and not named and not indexed:
            value, reading, place = self._ambiguous
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
            label = reading.by_name if self._only_index is None else reading.by_index
            if label is not None:  # it never is
                self._labels[met] = labels[label]

    def _refusal(self) -> ColumnError:
        """The first value that is no label of the task, with the others that were met."""
        (_, first), *others = self._wrong.items()
        listed = ", ".join(f"{value!r} ({error.place})" for (_, value), error in others)
        return ColumnError(f"{first}{f'; nor are {listed}' if listed else ''}", first.place)

    def _reading(self, value: Any) -> ClassReading:
        told = self._task.columns.kinds.get(self._task.columns.label)
        number = None if self._stored is None else read_integer(value)
        if isinstance(value, str) and any(read_integer(n) is not None for n in self._stored or ()):
            number = None  # it may be a name
        if self._stored is None or told == "number" or number is None:
            return read_class(self._task, value, typed=self._typed)
        name, labels = stored_name(number, self._stored, "labels"), self._task.labels
        place = find_loosely(name, labels)
        if place is not None:
            return ClassReading(place, None)
        try:
            return read_class(self._task, name)
        except ValueError as error:
            stored, own = (
                ", ".join(f"{index} {each!r}" for index, each in enumerate(names))
                for names in (self._stored, labels)
            )
            raise ValueError(
                f"{value} is stored as {name!r}, which is no label of the task; stored are "
                f"{stored}, the task's labels are {own}"
            ) from error


def _a(kind: str) -> str:
    articles = {"text": "a text", "integer": "a number", "number": "a number"}
    return articles.get(kind, kind)


class CellColumn(Column):
    """A column of a CSV file, whose task doesn't say what kind its values are (``columns.kinds``).

    A cell is a text, and an empty one is no value. If all cells are numbers or true and false, and
    a template compares, adds up or tests them, prompts would differ from those of the same rows in
    JSONL.
    """

    def __init__(self, task: Task, name: str) -> None:
        is_label = name == task.columns.label
        super().__init__(parse_any, ANY_KIND, optional=not is_label)
        self._name = name
        variable = "label" if is_label else name
        uses = conditions(task)
        self._compared = variable in uses.compared
        self._are_values = self._compared or variable in uses.asked
        self._cell = ("", "")  # one that shows the problem, and its place

    def see(self, value: Any, place: str) -> None:
        """Inspects a cell.

        Raises:
            ValueError: It is an answer and empty.
        """
        super().see(value, place)
        if value and self._are_values:
            meant = _meant(value)
            self._are_values = meant is not None
            if not self._cell[0] and (self._compared or not meant):
                self._cell = (value, place)

    def read(self, value: Any) -> Any:
        """The cell's text; None for an empty cell of an extra column."""
        if value == "":
            if not self.optional:
                raise ValueError(empty_cell(self._name))
            return None
        return super().read(value)

    def finish(self) -> None:
        """Raises a ColumnError if a template takes the texts as numbers or as true and false."""
        super().finish()
        cell, place = self._cell
        if self._are_values and cell:
            kind = "boolean" if read_boolean(cell) is not None else "number"
            does = "compares or adds up" if self._compared else "tests"
            raise ColumnError(
                f"a template {does} the column, and {cell!r} may be a text, which equals no number "
                "and is never false; set columns.kinds: "
                f"{{{self._name}: {kind}}}, or {{{self._name}: text}} if it is a text",
                place,
            )


def empty_cell(name: str) -> str:
    """Message for an empty cell where every row needs an answer."""
    return f"the cell is empty; set columns.kinds: {{{name}: text}} if the answer is an empty text"


def _meant(cell: str) -> int | float | None:
    """The value that a cell spells, or None."""
    boolean = read_boolean(cell)
    if boolean is not None:
        return boolean
    try:
        return parse_spelled_number(cell)
    except ValueError:
        return None
