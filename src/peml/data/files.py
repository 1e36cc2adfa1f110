"""Reading files of rows into memory-mapped Arrow.

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
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from datasets.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from peml.data.encoding import cache_folder
from peml.data.fields import KINDS, flat_row, flat_split, kind_of, label_kind, named_kinds
from peml.data.lines import check_file, is_csv, read_rows, unreadable
from peml.data.mapped import remap
from peml.errors import DataError, nearest
from peml.tasks import SOURCE_ROW, Columns, Task

__all__ = ["SUFFIXES", "check_columns", "read_file"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
"""Kinds of files that can be read, in the order they are looked for."""

_ANY_KIND = "a text, a number, true or false, or a list of texts"
_FORMAT = 2  # raised when what is written to the Arrow cache changes


def read_file(path: Path, task: Task) -> Dataset:
    """Reads the columns a task needs from one file, and adds each row's number.

    The result is memory-mapped; Arrow files are kept in the project's cache, by the file's content.

    Raises:
        DataError: The file can't be parsed, is empty, lacks a column, or holds a value of
            another kind. The message names file, line and field.
    """
    check_file(path)
    if path.suffix == ".parquet":
        return _read_parquet(path, task)
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error
    columns, kinds = task.columns, _field_kinds(path, task)
    key = (_FORMAT, path.suffix, content, columns.model_dump_json(), kinds, task.labels)
    try:
        with _quietly():
            rows = Dataset.from_generator(
                _typed_rows,
                features=_features(kinds),
                cache_dir=str(cache_folder() / "rows"),
                gen_kwargs={"path": path, "columns": columns, "kinds": kinds},
                fingerprint=hashlib.sha256(repr(key).encode()).hexdigest()[:32],
            )
            return remap(rows)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise unreadable(path, error.__cause__ or error) from error


def check_columns(task: Task, found: list[str], where: str) -> None:
    """Refuses a split that lacks a column the task needs.

    Raises:
        DataError: Every missing column is listed with the nearest one that is there.
    """
    absent = [name for name in task.columns.needed if name not in found]
    if absent:
        listed = "; ".join(f"{name!r}.{nearest(name, found)}" for name in absent)
        raise DataError(
            f"Task {task.name!r}: {where} lacks {_plural('column', absent)} {listed}",
            allowed=f"the columns there are: {', '.join(found)}",
            action="Correct the task's columns, or the data.",
        )


def _features(kinds: dict[str, str]) -> Features:
    fields: dict[str, Any] = {name: KINDS[kind].feature for name, kind in kinds.items()}
    return Features({**fields, SOURCE_ROW: Value("int64")})


def _field_kinds(path: Path, task: Task) -> dict[str, str]:
    """The kind of each field the task needs: told by the task, or else by the first row."""
    first = next(iter(_rows(path, task.columns)), None)
    if first is None:  # asked first, since the library can't hold a split without rows
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


def _rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and flat content of each row."""
    return ((line, flat_row(row, columns)) for line, row in read_rows(path))


def _typed_rows(path: Path, columns: Columns, kinds: dict[str, str]) -> Iterator[dict[str, Any]]:
    for index, (line, row) in enumerate(_rows(path, columns)):
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


def _read_parquet(path: Path, task: Task) -> Dataset:
    try:
        with _quietly():
            table = Dataset.from_parquet(str(path), cache_dir=str(cache_folder() / "rows"))
    except DatasetGenerationError as error:
        raise unreadable(path, error.__cause__ or error) from error
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        raise unreadable(path, error) from error
    table = flat_split(table, task.columns)
    check_columns(task, table.column_names, str(path))
    table = table.select_columns(list(task.columns.needed))
    return table.add_column(SOURCE_ROW, np.arange(len(table)))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's progress bars, which would break into the project's own output."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _wrong_kind(path: Path, line: int, field: str, value: Any, allowed: str) -> DataError:
    return DataError(
        f"{path}, line {line}, field {field!r}: {value!r} is not {allowed}.",
        allowed=allowed,
        action="Correct the line.",
    )


def _plural(noun: str, items: list[str]) -> str:
    return noun if len(items) == 1 else f"{noun}s"
