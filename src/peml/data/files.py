"""Reading files of rows into Arrow files that are mapped.

Columns are typed by what the task says they are, not by guessing: no text that looks like a
date, a number or "NA" turns into something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetFile, read_schema

from peml.data.fields import KINDS, flat_row, kind_of, label_kind, named_kinds
from peml.data.lines import check_file, is_csv, read_rows, unreadable
from peml.data.mapped import BATCH, cache_folder, in_batches
from peml.data.plain import why_unusable
from peml.data.rows import Rows
from peml.data.tables import check_columns, content_key, find_columns, needed_table
from peml.errors import DataError, nearest
from peml.tasks import SOURCE_ROW, Columns, Task

__all__ = ["SUFFIXES", "flat_rows", "needed_rows", "read_file"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
"""Kinds of files that can be read, in the order they are looked for."""

_ANY_KIND = "a text, a number, true or false, or a list of texts"
_NUMBER = pa.field(SOURCE_ROW, pa.int64())
_SMALL = 2**16  # bytes of a file whose rows are held in memory: a file in the cache would be dearer
_FORMAT = 4  # raised when what is written to the Arrow cache changes


def read_file(path: Path, task: Task) -> Rows:
    """Reads the columns a task needs from one file, and adds each row's number.

    The result is mapped; Arrow files are kept in the project's cache, by the file's content. The
    rows of a text file of 64 KiB or less are held in memory.

    Raises:
        DataError: The file can't be parsed, is empty, lacks a column, or holds a value of
            another kind. The message names file, line and field.
    """
    check_file(path)
    with _reading(path), path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    if path.suffix == ".parquet":
        schema, batches = _open_parquet(path, task)
    else:
        kinds = _field_kinds(path, task)
        schema = pa.schema([*((n, KINDS[k].type) for n, k in kinds.items()), _NUMBER])
        batches = _typed_batches(path, task.columns, kinds, schema)
    columns = task.columns.model_dump_json()
    said = (_FORMAT, path.suffix, content, columns, schema.to_string(), task.labels)
    key = hashlib.sha256(repr(said).encode()).hexdigest()
    if path.suffix in (".jsonl", ".csv") and path.stat().st_size <= _SMALL:
        return Rows.of_table(pa.Table.from_batches(batches, schema), key)
    return Rows.cached(cache_folder() / "rows" / f"{key[:32]}.arrow", key, schema, batches)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, ValueError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def needed_rows(rows: Rows, task: Task, where: str) -> Rows:
    """The columns that a task needs of a split, with each row's number.

    Raises:
        DataError: A column is missing, or holds what only its library can read.
    """
    table = needed_table(rows.table, task, where)
    numbers = pa.array(np.arange(len(table)))
    return Rows.of_table(table.append_column(_NUMBER, numbers), content_key(table))


def _field_kinds(path: Path, task: Task) -> dict[str, str]:
    """The kind of each field the task needs: told by the task, or else by the first row."""
    first = next(iter(flat_rows(path, task.columns)), None)
    if first is None:
        raise DataError(f"{path} has no rows.", allowed="one row or more", action="Check the file.")
    line, row = first
    check_columns(task, list(row), str(path))
    label = task.columns.label
    value = row[label]
    if is_csv(path) and value not in task.labels and label_kind(task, 0) == "whole":
        value = int(value) if _is_integer(value) else value
    told = named_kinds(task.columns) | {label: label_kind(task, value)}
    kinds: dict[str, str] = {}
    for name in task.columns.needed:
        kind = told[name] if name in told else _kind_in(path, row[name])
        if kind is None:
            allowed = "an index or a label name" if name == label else _ANY_KIND
            raise _wrong_kind(path, line, name, row[name], allowed)
        kinds[name] = kind
    return kinds


def _kind_in(path: Path, value: Any) -> str | None:
    return "whole" if is_csv(path) and _is_integer(value) else kind_of(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, str) and value.strip().removeprefix("-").isdecimal()


def flat_rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and flat content of each row of a JSONL or CSV file.

    Raises:
        DataError: A line is no row, or one of the fields in ``columns`` holds what can't be kept.
            The message names file, line and field.
    """
    for line, row in read_rows(path):
        try:
            flat = flat_row(row, columns)
        except (RecursionError, ValueError) as error:
            raise DataError(
                f"{path}, line {line}: {error}.",
                allowed="each column once in a row, and objects in objects some levels deep",
                action="Correct the line.",
            ) from error
        for name in columns.needed:
            problem = why_unusable(flat.get(name))
            if problem:
                raise DataError(
                    f"{path}, line {line}, field {name!r}: {problem}.",
                    allowed="texts of whole characters, finite numbers, integers of 64 bits",
                    action="Correct the line.",
                )
        yield line, flat


def _typed_batches(
    path: Path, columns: Columns, kinds: dict[str, str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        yield from in_batches(_typed_rows(path, columns, kinds), schema)


def _typed_rows(path: Path, columns: Columns, kinds: dict[str, str]) -> Iterator[dict[str, Any]]:
    for index, (line, row) in enumerate(flat_rows(path, columns)):
        absent = [name for name in columns.needed if name not in row]
        if absent:
            raise DataError(
                f"{path}, line {line}: no field {absent[0]!r}.{nearest(absent[0], row)}",
                allowed=f"the fields {', '.join(columns.needed)} in every row",
                action="Correct the row, or the task's columns.",
            )
        typed = {name: _typed(path, line, name, row[name], kinds[name]) for name in columns.needed}
        yield {SOURCE_ROW: index, **typed}


def _typed(path: Path, line: int, name: str, value: Any, kind: str) -> Any:
    if is_csv(path) and kind in ("whole", "number"):
        try:
            return int(value) if kind == "whole" else float(value)
        except ValueError:
            raise _wrong_kind(path, line, name, value, "a number") from None
    if not KINDS[kind].accepts(value):
        raise _wrong_kind(path, line, name, value, KINDS[kind].allowed)
    return value


def _open_parquet(path: Path, task: Task) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    with _reading(path):
        found = read_schema(path)
        needed = needed_table(found.empty_table(), task, str(path)).schema.append(_NUMBER)
    return needed, _parquet_batches(path, task)


def _parquet_batches(path: Path, task: Task) -> Iterator[pa.RecordBatch]:
    first = 0
    with _reading(path), ParquetFile(path) as file:
        sources = find_columns(file.schema_arrow, task, str(path))
        for batch in _read_batches(path, file, list(sources.values())):
            table = needed_table(pa.Table.from_batches([batch]), task, str(path), first)
            numbers = pa.array(np.arange(first, first + len(table)))
            first += len(table)
            yield from table.append_column(_NUMBER, numbers).to_batches()


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


def _wrong_kind(path: Path, line: int, field: str, value: Any, allowed: str) -> DataError:
    return DataError(
        f"{path}, line {line}, field {field!r}: {value!r} is not {allowed}.",
        allowed=allowed,
        action="Correct the line.",
    )
