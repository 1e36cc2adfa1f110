"""Columns of cells, as in CSV: a cell is a text, and an empty one is no value."""

from typing import Any

from peml.data.columns import Column, ColumnError
from peml.data.kinds import ANY_KIND, parse_any, parse_spelled_number
from peml.tasks import Task, conditions, read_boolean


class CellColumn(Column):
    """A column of cells that templates may use; its kind isn't told (``columns.kinds``).

    If all cells are numbers or true and false, and a template takes them as such, the texts would
    give other prompts than the same rows as JSONL do.
    """

    def __init__(self, task: Task, name: str) -> None:
        is_label = name == task.columns.label
        super().__init__(parse_any, ANY_KIND, optional=not is_label)
        self._name = name
        variable = "label" if is_label else name
        asked, compared = conditions(task)
        self._compared = variable in compared
        self._are_values = self._compared or variable in asked
        self._cell = ("", "")  # one that shows the problem, and its place

    def see(self, value: Any, place: str) -> None:
        """Inspects a cell."""
        super().see(value, place)
        if value and self._are_values:
            meant = _meant(value)
            self._are_values = meant is not None
            if not self._cell[0] and (self._compared or not meant):
                self._cell = (value, place)

    def read(self, value: Any) -> Any:
        """The cell's text; None if it is an empty one of an extra column."""
        return None if value == "" and self.optional else super().read(value)

    def finish(self) -> None:
        """Raises a ColumnError if a template takes the texts as numbers or as true and false."""
        super().finish()
        cell, place = self._cell
        if self._are_values and cell:
            kind = "boolean" if read_boolean(cell) is not None else "number"
            raise ColumnError(
                f"a template {'compares' if self._compared else 'tests'} the column, and {cell!r} "
                "may be a text, which equals no number and is never false; set columns.kinds: "
                f"{{{self._name}: {kind}}}, or {{{self._name}: text}} if it is a text",
                place,
            )


def _meant(cell: str) -> int | float | None:
    """The value that a cell spells, or None."""
    boolean = read_boolean(cell)
    if boolean is not None:
        return boolean
    try:
        return parse_spelled_number(cell)
    except ValueError:
        return None
