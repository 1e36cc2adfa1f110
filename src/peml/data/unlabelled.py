"""Reads rows to predict from a file, some at a time, with the columns that are passed through."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow.parquet import read_metadata, read_schema

from peml.data.files import open_rows, placed_rows, reading
from peml.data.lines import check_file, is_csv
from peml.data.mapped import BATCH
from peml.data.plain import why_unusable
from peml.data.rows import Row
from peml.data.task_columns import spell_row
from peml.errors import DataError, nearest
from peml.tasks import SOURCE_ROW, Task

_LARGEST = 2**23  # characters of a window's values, so that long rows don't fill the memory


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive rows of a file.

    `first` is the number of the first row in the file, from 0; `places` are file and line of each
    row, for messages. `rows` have the columns that the task needs, converted; `kept` has the
    unchanged columns to pass through.
    """

    first: int
    places: list[str]
    rows: list[Row]
    kept: list[Row]


class UnlabelledFile:
    """A file of rows to predict: JSONL, CSV or Parquet; they need no labels.

    Kinds of columns are decided from all rows, so `windows` reads the file once before it yields
    the first window. Only one window is in memory. `keep` names columns to pass through; None: all.

    Raises:
        DataError: The file can't be read, is empty, or lacks a column of `keep`.
    """

    def __init__(self, path: Path, task: Task, keep: Sequence[str] | None = ()) -> None:
        check_file(path)
        self._path, self._task = path, task
        self._is_parquet = path.suffix == ".parquet"
        found: dict[str, None] = {}
        if self._is_parquet:
            with reading(path):
                self.rows: int = read_metadata(path).num_rows
                found = dict.fromkeys(read_schema(path).names)
        else:
            self.rows = 0
            for _, row in placed_rows(path):
                self.rows += 1
                found.update(dict.fromkeys(row))
        self.kept = tuple(found if keep is None else dict.fromkeys(keep))
        for name in self.kept:
            if name not in found:
                raise DataError(
                    f"{path} has no column {name!r}.{nearest(name, found)}",
                    allowed=f"the columns there are: {', '.join(found)}",
                    action="Correct the name of the column to keep.",
                )

    def windows(self, size: int) -> Iterator[Window]:
        """Windows of at most ``size`` rows, in order; fewer if the rows are long.

        Raises:
            DataError: A row can't be used; the message names file, line and field.
        """
        _, batches = open_rows([self._path], self._task, labelled=False)
        typed = (row for batch in batches for row in batch.to_pylist())
        window, characters = Window(0, [], [], []), 0
        for row, (place, kept) in zip(typed, self._passed_through(), strict=True):
            del row[SOURCE_ROW]
            window.rows.append(row)
            window.places.append(place)
            window.kept.append(kept)
            characters += sum(len(str(value)) for value in (*row.values(), *kept.values()))
            if len(window.rows) == size or characters >= _LARGEST:
                yield window
                window, characters = Window(window.first + len(window.rows), [], [], []), 0
        if window.rows:
            yield window

    def _passed_through(self) -> Iterator[tuple[str, Row]]:
        """Place and kept columns of each row."""
        if self._is_parquet and not self.kept:
            yield from ((f"{self._path}, {spell_row(n)}", {}) for n in range(self.rows))
            return
        for where, row in placed_rows(self._path, self.kept):
            place = f"{self._path}, {where}"
            kept = {name: row.get(name) for name in self.kept}
            for name, value in kept.items():
                if problem := why_unusable(value):
                    raise DataError(
                        f"{place}, field {name!r}: {problem}.",
                        allowed="texts in UTF-8, finite numbers, integers of 64 bits",
                        action="Correct the row, or don't keep the column.",
                    )
            yield place, kept

    def kept_schema(self) -> pa.Schema:
        """The Arrow types of the kept columns; this reads JSON lines a second time.

        Raises:
            DataError: A column's values have no common type.
        """
        if self._is_parquet:
            schema = read_schema(self._path)
            return pa.schema([schema.field(name).remove_metadata() for name in self.kept])
        if is_csv(self._path):
            return pa.schema([(name, pa.string()) for name in self.kept])
        return pa.schema([self._kept_field(name) for name in self.kept])

    def _kept_field(self, name: str) -> pa.Field:
        values = (row[name] for _, row in self._passed_through())
        try:
            types = [pa.array(part).type for part in iter(lambda: list(islice(values, BATCH)), [])]
            schemas = [pa.schema([(name, each)]) for each in dict.fromkeys(types)]
            return pa.unify_schemas(schemas, promote_options="permissive").field(0)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._path}: the values of the column {name!r} have no common type: {error}.",
                allowed="values of one type in a column of a Parquet file",
                action="Write JSONL, or don't keep the column.",
            ) from error
