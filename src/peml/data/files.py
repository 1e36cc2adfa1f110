"""Reads files of rows into memory-mapped Arrow files.

The task decides the types of columns: a text that looks like a date, a number or "NA" stays a text.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetFile, read_schema

from peml.data.cards import card_names
from peml.data.fields import plain_row
from peml.data.lines import check_file, is_csv, read_rows, unreadable
from peml.data.mapped import BATCH, cache_folder, in_batches
from peml.data.rows import Rows
from peml.data.stored_names import stored_names
from peml.data.tables import as_written, content_key, find_columns, find_rivals, needed_table
from peml.data.task_columns import TaskColumns, spell_row
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, Task
from peml.tasks.conditions import conditions

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
"""Kinds of files that can be read, in the order they are looked for."""

_NUMBER = pa.field(SOURCE_ROW, pa.int64())
_SMALL = 2**16  # bytes of a file whose rows are held in memory: a cached file would cost more
_FORMAT = 13  # increased when the content of the Arrow cache changes


def read_files(paths: Sequence[Path], task: Task, folder: Path | None = None) -> Rows:
    """Reads the columns a task needs from a split's file or shards, and adds each row's number.

    `folder` is that of the data set, which may have a card; by default that of the files.

    The result is mapped; Arrow files are kept in the project's cache, by the file's content. The
    rows of text files of 64 KiB or less are held in memory.

    Raises:
        DataError: The file can't be parsed, is empty, lacks a column, or holds a value that
            can't be used. The message names file, line and field.
        ConfigError: ``PEML_CACHE`` is set and names no folder.
    """
    contents = []
    for path in paths:
        check_file(path)
        with reading(path), path.open("rb") as file:
            contents.append(hashlib.file_digest(file, "sha256").hexdigest())
    cache = cache_folder()
    columns = task.columns.model_dump_json()
    uses = [sorted(names) for names in conditions(task)]  # by which rows are inspected
    kind = (task.type, task.labels, task.target is None, task.format)
    named = card_names(folder or path.parent, task.columns, task.source.subset)
    parts = (_FORMAT, path.suffix, *contents, columns, *kind, uses, named)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    size = sum(path.stat().st_size for path in paths)
    if path.suffix in (".jsonl", ".csv") and size <= _SMALL:
        schema, batches = open_rows(paths, task, named=named)
        return Rows.of_table(pa.Table.from_batches(batches, schema), key)
    target = cache / "rows" / f"{key[:32]}.arrow"
    return Rows.cached(target, key, lambda: open_rows(paths, task, named=named))


def name_of(paths: Sequence[Path]) -> str:
    """What messages call a split's file or shards; rows are counted over all shards."""
    first = paths[0]
    if len(paths) == 1:
        return str(first)
    start, of, count = re.sub(r"-\d{5}(-of-)", r"\1", first.stem).rpartition("-of-")
    if not of:
        return f"{first} and {len(paths) - 1} more"
    return str(first.with_name(f"{start}-*-of-{count}{first.suffix}"))


def open_rows(
    paths: Sequence[Path],
    task: Task,
    *,
    labelled: bool = True,
    named: tuple[str, ...] | None = None,
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of the needed columns, after all rows were inspected, and the numbered rows.

    The rows are those of a file, or of all shards of a Parquet file. `named` are the names of the
    label column's integers, if the files have none.
    """
    tabular = paths[0].suffix == ".parquet" and task.format is None
    return (_open_parquet if tabular else _open_text)(paths, task, labelled, named)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors inside a file into a message that names it."""
    try:
        yield
    except (OSError, OverflowError, ValueError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def needed_rows(rows: Rows, task: Task, where: str, *, typed: bool = True) -> Rows:
    """The columns that a task needs of a split, with each row's number; `typed` as `TaskColumns`.

    Raises:
        DataError: A column is missing, or holds what only its library can read.
    """
    if task.format is not None:
        return _split_rows(rows, task, where)
    schema = rows.table.schema
    sources = find_columns(schema, task.columns.needed, task, where)
    table = needed_table(rows.table, sources, task, where)
    stored = stored_names(schema, task.columns, where)
    columns = TaskColumns(task, where, typed=typed, stored=stored)
    columns.see_table(table, 0)
    columns.finish()
    table = columns.read_table(table)
    return Rows.of_table(_numbered(table, 0), content_key(table))


def _split_rows(rows: Rows, task: Task, where: str) -> Rows:
    """Like `needed_rows`, for instruction data; Arrow holds turns as lists of structs."""
    columns = TaskColumns(task, where)
    placed = ((spell_row(number), row) for number, row in enumerate(rows.table.to_pylist()))
    split = ((place, plain_row(row, task, f"{where}, {place}")) for place, row in placed)
    table = pa.Table.from_pylist(columns.read_all(split), columns.schema)
    return Rows.of_table(_numbered(table, 0), content_key(table))


def flat_rows(
    paths: Sequence[Path], task: Task, *, labelled: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (for messages) and flat content of each row of a file, or of all shards of one.

    Raises:
        DataError: A line is not a row; the message names file and line.
    """
    for path in paths:
        for place, row in placed_rows(path):
            yield place, plain_row(row, task, f"{path}, {place}", labelled=labelled)


def placed_rows(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (for messages) and content of each row; `columns` selects those of a Parquet file."""
    if path.suffix != ".parquet":
        yield from ((f"line {line}", row) for line, row in read_rows(path))
        return
    with reading(path), ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=BATCH, columns=columns)
        rows = chain.from_iterable(as_written(batch).to_pylist() for batch in batches)
        yield from ((spell_row(number), row) for number, row in enumerate(rows))


def _open_text(
    paths: Sequence[Path], task: Task, labelled: bool, named: tuple[str, ...] | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    where, typed = name_of(paths), not is_csv(paths[0])
    columns = TaskColumns(task, where, labelled=labelled, typed=typed, stored=named)
    count = 0
    for place, row in flat_rows(paths, task, labelled=labelled):
        columns.see(row, place)
        count += 1
    _refuse_empty(where, count)
    columns.finish()
    schema = columns.schema.append(_NUMBER)
    rows = (row for _, row in flat_rows(paths, task, labelled=labelled))
    read = ({**columns.read(row), SOURCE_ROW: number} for number, row in enumerate(rows))
    return schema, in_batches(read, schema)


def _refuse_empty(where: str, rows: int) -> None:
    if not rows:
        raise DataError(f"{where} has no rows.", allowed="one row or more", action="Check it.")


def _open_parquet(
    paths: Sequence[Path], task: Task, labelled: bool, named: tuple[str, ...] | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    stored = (_stored_names(paths, task) or named) if labelled else None
    columns = TaskColumns(task, name_of(paths), labelled=labelled, stored=stored)
    count = 0
    for first, table in _parquet_tables(paths, columns.fields, task):
        columns.see_table(table, first)
        count += len(table)
    _refuse_empty(name_of(paths), count)
    columns.finish()
    batches = (
        batch
        for first, table in _parquet_tables(paths, columns.fields, task)
        for batch in _numbered(columns.read_table(table), first).to_batches()
    )
    return columns.schema.append(_NUMBER), batches


def _stored_names(paths: Sequence[Path], task: Task) -> tuple[str, ...] | None:
    """The label names that are stored in a file, and in all of its shards alike."""
    found = []
    for path in paths:
        with reading(path):
            schema = read_schema(path)
        found.append(stored_names(schema, task.columns, str(path)))
        if found[-1] != found[0]:
            raise DataError(
                f"{path}: the stored label names are {found[-1]}, and those of {paths[0].name} "
                f"are {found[0]}.",
                allowed="the same names in all files of a split",
                action="Write the split again.",
            )
    return found[0]


def _parquet_tables(
    paths: Sequence[Path], fields: Sequence[str], task: Task
) -> Iterator[tuple[int, pa.Table]]:
    """Reads some rows at a time; yields the number of the first, and a table of the fields."""
    earlier = 0  # rows of the shards before
    for path in paths:
        first = 0
        with reading(path), ParquetFile(path) as file:
            sources = find_columns(file.schema_arrow, fields, task, str(path))
            rivals = find_rivals(file.schema_arrow.names, sources, task)
            for batch in _read_batches(path, file, [*sources.values(), *rivals.values()]):
                table = pa.Table.from_batches([batch])
                yield earlier + first, needed_table(table, sources, task, str(path), first)
                first += len(table)
        earlier += first


def _read_batches(path: Path, file: ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=BATCH, columns=columns)
    except pa.ArrowInvalid as error:  # a text column with a dictionary is checked while it is read
        for name in columns:
            row = 0
            try:
                for _ in file.iter_batches(batch_size=1, columns=[name]):
                    row += 1
            except pa.ArrowInvalid as cause:
                raise DataError(
                    f"{path}, row {row} (from 0), field {name!r}: {cause}.",
                    allowed="texts in UTF-8",
                    action="Correct the row.",
                ) from error
        raise


def _numbered(table: pa.Table, first: int) -> pa.Table:
    """A table with the numbers of its rows."""
    return table.append_column(_NUMBER, pa.array(np.arange(first, first + len(table))))
