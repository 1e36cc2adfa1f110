"""Reads the columns that a task needs, from rows or tables of any source.

All files, hub data sets and lists of rows, for training and prediction, are read here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from peml.data.columns import CellColumn, ClassColumn, Column, ColumnError, empty_cell
from peml.data.fields import plain_row
from peml.data.kinds import (
    ANY_KIND,
    PARSERS,
    parse_any,
    parse_number,
    parse_option,
    parse_options,
    parse_single,
    parse_spelled_number,
    parse_text,
)
from peml.data.plain import why_unusable
from peml.data.stored_names import naming
from peml.errors import DataError, nearest
from peml.tasks import Task
from peml.tasks.conditions import conditions
from peml.tasks.label import read_label

INDEXED, NAMED = {b"peml": b"index"}, {b"peml": b"name"}
"""Metadata of a label's field whose integers were read as indices, or as names of other indices."""


class TaskColumns:
    """The columns of a task, read in two passes: ``see`` all rows, ``finish``, then ``read`` them.

    Args:
        task: The task.
        where: File or split, for messages.
        labelled: Whether the rows have labels; False for rows to predict.
        typed: Whether the source distinguishes texts, numbers and nulls; CSV doesn't.
        stored: The source's names for the integers of the label column.

    Attributes:
        fields: The names of the columns.
    """

    def __init__(
        self,
        task: Task,
        where: str,
        *,
        labelled: bool = True,
        typed: bool = True,
        stored: tuple[str, ...] | None = None,
    ) -> None:
        self._task = task
        self._where = where
        self.fields = task.columns.needed if labelled else task.columns.shown
        self._columns = {
            name: _column(task, name, typed=typed, stored=stored) for name in self.fields
        }
        self._unmet = {name for name, column in self._columns.items() if column.optional}
        self._found: dict[str, None] = {}

    @property
    def schema(self) -> pa.Schema:
        """Types of the converted columns, after `finish`; marks how integers were read."""
        fields = []
        for name, column in self._columns.items():
            mark = None
            if isinstance(column, ClassColumn):
                mark = INDEXED if column.holds_indices else NAMED if column.holds_names else None
            fields.append(pa.field(name, column.arrow_type, metadata=mark))
        return pa.schema(fields)

    def see(self, row: Mapping[str, Any], place: str) -> None:
        """Inspects a row.

        `row` has dotted names for nested fields; `place` is its line or number, for messages.

        Raises:
            DataError: A field is missing, or its value is not allowed.
        """
        if not self._found:
            needed = [name for name, column in self._columns.items() if not column.optional]
            check_columns(self._task, needed, list(row), self._where)
        if self._unmet or not self._found:
            self._found.update(dict.fromkeys(row))
            self._unmet.difference_update(row)
        for name, column in self._columns.items():
            try:
                if name not in row and not column.optional:
                    raise ValueError(f"the row has none.{nearest(name, row)}".removesuffix("."))
                if problem := why_unusable(row.get(name)):
                    raise ValueError(problem)
                column.see(row.get(name), place)
            except ValueError as error:
                raise self._error(place, name, error) from error

    def see_table(self, table: pa.Table, first: int) -> None:
        """Inspects the rows of a table that has all columns, as plain types.

        `first` is the number of the table's first row in the source, from 0.

        Raises:
            DataError: The value of a field is not allowed.
        """
        self._unmet.clear()
        for name, column in self._columns.items():
            values = table.column(name)
            whole = column.optional or not values.null_count
            if pa.types.is_string(values.type) and column.keeps and whole:
                if values.null_count < len(values):
                    column.see("", spell_row(first))
                continue
            for number, value in enumerate(values.to_pylist(), start=first):
                try:
                    column.see(value, spell_row(number))
                except ValueError as error:
                    raise self._error(spell_row(number), name, error) from error

    def finish(self) -> None:
        """Decides how the columns are converted; called after all rows were inspected.

        Raises:
            DataError: A column is missing from all rows, or its values don't fit together.
        """
        check_columns(self._task, sorted(self._unmet), list(self._found), self._where)
        for name, column in self._columns.items():
            try:
                column.finish()
            except ColumnError as error:
                raise self._error("", name, error) from error

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Converts an inspected row."""
        return {name: column.read(row.get(name)) for name, column in self._columns.items()}

    def read_all(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Inspects and converts rows, each after its place; raises as `see` and `finish`."""
        seen = []
        for place, row in rows:
            self.see(row, place)
            seen.append(row)
        self.finish()
        return [self.read(row) for row in seen]

    def read_table(self, table: pa.Table) -> pa.Table:
        """Converts the inspected rows of a table."""
        columns = []
        for name, column in self._columns.items():
            values = table.column(name)
            if not column.keeps or values.type != column.arrow_type:
                read = [column.read(value) for value in values.to_pylist()]
                values = pa.chunked_array([pa.array(read, column.arrow_type)])
            columns.append(values)
        return pa.table(columns, schema=self.schema)

    def _error(self, place: str, name: str, error: ValueError) -> DataError:
        where = f"{self._where}, " if self._where else ""
        place = error.place if isinstance(error, ColumnError) else place
        return DataError(
            f"{where}{place}, field {name!r}: {error}.",
            allowed=f"{self._columns[name].allowed}, of one kind in all rows",
            action="Correct the row, or the task's definition.",
            field=name,
        )


def read_list(rows: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Converts a list of rows to predict, in the same way as files; labels are not needed.

    Raises:
        DataError: A field is missing, or its value is not allowed.
    """
    placed = ((spell_row(number), row) for number, row in enumerate(rows))
    flat = ((place, plain_row(row, task, place, labelled=False)) for place, row in placed)
    return TaskColumns(task, "", labelled=False).read_all(flat)


def check_columns(task: Task, needed: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raises a DataError that names the missing columns, if there are any."""
    absent = [name for name in needed if name not in found]
    if absent:
        listed = "; ".join(f"{name!r}.{nearest(name, found)}" for name in absent)
        raise DataError(
            f"Task {task.name!r}: {where or 'a row'} lacks {'columns' if absent[1:] else 'column'} "
            f"{listed}",
            allowed=f"the columns there are: {', '.join(dict.fromkeys(found))}",
            action="Rename the data's column, or correct the task's columns (another name: "
            "columns.aliases: {NAME: COLUMN}); a field without a value may be null.",
            field=absent[0],
        )


def _column(task: Task, name: str, *, typed: bool, stored: tuple[str, ...] | None) -> Column:
    columns = task.columns
    if name in columns.inputs:
        return Column(parse_text, "a text")
    if name in (columns.choices, columns.keys):
        return Column(parse_options, "a list of texts")
    if name in columns.options:
        return Column(parse_option, "a text")
    if name == columns.label:
        return _label_column(task, typed=typed, stored=stored)
    if name in columns.group:
        parse_group = {**PARSERS, None: parse_single}[columns.kinds.get(name)]
        return Column(parse_group, "a text, a number, or true or false")
    kind = columns.kinds.get(name)
    looped = kind is None and name in conditions(task).looped
    if not typed and kind is None and not looped:
        return CellColumn(task, name)
    # A number where texts are meant may have lost its zeros, so it is refused.
    parse = parse_text if kind == "text" else PARSERS[kind]
    if looped:
        parse = _parse_items
    if not typed:  # an empty cell is no value
        return Column(lambda cell: None if cell == "" else parse(cell), ANY_KIND, optional=True)
    return Column(parse, ANY_KIND, optional=True)


def _label_column(task: Task, *, typed: bool, stored: tuple[str, ...] | None) -> Column:
    if task.labels:
        return ClassColumn(task, typed=typed, stored=stored)
    kind = task.columns.kinds.get(task.columns.label)
    if task.type.has_scale:
        spelled = not typed or kind is not None
        return Column(parse_spelled_number if spelled else parse_number, "a number")
    if task.columns.choices is not None:
        named = stored is not None and kind is None
        parse = naming(task, stored or (), parse_any) if named else PARSERS[kind]
        return Column(parse, "the text, key or index of an option, or a list of texts")
    if kind is not None:
        return Column(PARSERS[kind], ANY_KIND)
    if task.target is not None:
        return Column(parse_any, ANY_KIND) if typed else CellColumn(task, task.columns.label)

    def read_target(value: Any) -> Any:
        if not typed and value == "":
            raise ValueError(empty_cell(task.columns.label))
        return read_label(task, value, ())

    return Column(read_target, "a text or a number")


def _parse_items(value: Any) -> Any:
    """A value whose items a template goes through; a text has letters only."""
    if isinstance(value, str) and value:
        raise ValueError(
            f"a template goes through the items of {value!r}, which are the letters of a text; "
            "write lists (JSONL or Parquet), or set columns.kinds to text if letters are meant"
        )
    return parse_any(value)


def spell_row(number: int) -> str:
    """The place of a row that is no line of a text file, for messages."""
    return f"row {number} (from 0)"
