"""Reading JSONL, CSV and Parquet files into memory-mapped Arrow.

Columns are typed by what the task says they are, not by guessing: no text that looks like a
date, a number or "NA" turns into something else.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from peml.data.encoding import cache_folder
from peml.errors import DataError, nearest
from peml.tasks import SOURCE_ROW, Columns, Task, TaskType

__all__ = ["SUFFIXES", "check_columns", "read_file"]

SUFFIXES = (".jsonl", ".csv", ".parquet")
"""Kinds of files that can be read, in the order they are looked for."""

_FORMAT = 1  # raised when what is written to the Arrow cache changes


def read_file(path: Path, task: Task) -> Dataset:
    """Reads the columns a task needs from one file, and adds each row's number.

    The result is memory-mapped; Arrow files are kept in the project's cache, by the file's content.

    Raises:
        DataError: The file can't be parsed, is empty, lacks a column, or holds a value of
            another kind. The message names file, line and field.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, task)
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    columns, label = task.columns, _label_value(path, task)
    key = (_FORMAT, path.suffix, content, columns.model_dump_json(), label.dtype, task.labels)
    try:
        with _quietly():
            return Dataset.from_generator(
                _typed_rows,
                features=_features(columns, label),
                cache_dir=str(cache_folder() / "rows"),
                gen_kwargs={"path": path, "columns": columns, "dtype": label.dtype},
                fingerprint=hashlib.sha256(repr(key).encode()).hexdigest()[:32],
            )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise _unreadable(path, error.__cause__ or error) from error


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


def _features(columns: Columns, label: Value) -> Features:
    features: dict[str, Any] = dict.fromkeys(columns.inputs, Value("string"))
    if isinstance(columns.choices, str):
        features[columns.choices] = List(Value("string"))
    else:
        features |= dict.fromkeys(columns.options, Value("string"))
    return Features({**features, columns.label: label, SOURCE_ROW: Value("int64")})


def _label_value(path: Path, task: Task) -> Value:
    """The type of the label column: told by the task, or else by the first row."""
    first = next(iter(_rows(path)), None)
    if first is None:  # asked first, since the library can't hold a split without rows
        raise DataError(f"{path} has no rows.", allowed="one row or more", action="Check the file.")
    check_columns(task, list(first[1]), str(path))
    if task.type is TaskType.GENERATION:
        return Value("string")
    if task.type is TaskType.REGRESSION:
        return Value("float64")
    value = first[1][task.columns.label]
    if path.suffix == ".csv":
        value = int(value) if _is_integer(value) and value not in task.labels else value
    kinds = {bool: "bool", int: "int64", str: "string"}
    if type(value) not in kinds:
        raise _wrong_kind(path, first[0], task.columns.label, value, "an index or a label name")
    return Value(kinds[type(value)])


def _is_integer(value: Any) -> bool:
    return isinstance(value, str) and value.strip().removeprefix("-").isdecimal()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and content of each row; blank lines are passed over."""
    return _csv_rows(path) if path.suffix == ".csv" else _jsonl_rows(path)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                # the file may start with a byte order mark
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number} is not valid JSON: {error}.",
                    allowed="one JSON object a line, UTF-8",
                    action="Correct the line, or write the file again.",
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {number} holds a {type(row).__name__}, not an object.",
                    allowed='one JSON object a line, such as {"sentence": "...", "label": 0}',
                    action="Write one row a line.",
                )
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error(f"{len(reader.fieldnames or ())} fields expected")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}, line {reader.line_num} is not valid CSV: {error}.",
                allowed="a header line, then one row a line with as many fields, UTF-8",
                action="Correct the line; quote texts that hold commas or line breaks.",
            ) from error


def _typed_rows(path: Path, columns: Columns, dtype: str) -> Iterator[dict[str, Any]]:
    for index, (line, row) in enumerate(_rows(path)):
        absent = [name for name in columns.needed if name not in row]
        if absent:
            raise DataError(
                f"{path}, line {line}: no field {absent[0]!r}.{nearest(absent[0], row)}",
                allowed=f"the fields {', '.join(columns.needed)} in every row",
                action="Correct the row, or the task's columns.",
            )
        typed: dict[str, Any] = {SOURCE_ROW: index}
        for name in columns.needed[:-1]:
            typed[name] = row[name]
            if name == columns.choices:
                if not _is_texts(row[name]):
                    raise _wrong_kind(path, line, name, row[name], "a list of texts")
            elif not isinstance(row[name], str):
                raise _wrong_kind(path, line, name, row[name], "a text")
        value = row[columns.label]
        typed[columns.label] = _typed_label(path, line, columns.label, value, dtype)
        yield typed


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _typed_label(path: Path, line: int, name: str, value: Any, dtype: str) -> Any:
    if path.suffix == ".csv" and dtype in ("int64", "float64"):
        try:
            return int(value) if dtype == "int64" else float(value)
        except ValueError:
            raise _wrong_kind(path, line, name, value, "a number") from None
    kinds: dict[str, tuple[type | tuple[type, ...], str]] = {
        "bool": (bool, "true or false, as in the first row"),
        "int64": (int, "a whole number, as in the first row"),
        "float64": ((int, float), "a number"),
        "string": (str, "a text"),
    }
    kind, allowed = kinds[dtype]
    if not isinstance(value, kind) or (isinstance(value, bool) and dtype != "bool"):
        raise _wrong_kind(path, line, name, value, allowed)
    return value


def _read_parquet(path: Path, task: Task) -> Dataset:
    try:
        with _quietly():
            table = Dataset.from_parquet(str(path), cache_dir=str(cache_folder() / "rows"))
    except DatasetGenerationError as error:
        raise _unreadable(path, error.__cause__ or error) from error
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        raise _unreadable(path, error) from error
    check_columns(task, table.column_names, str(path))
    table = table.select_columns(list(task.columns.needed))
    return table.add_column(SOURCE_ROW, list(range(len(table))))


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


def _unreadable(path: Path, cause: BaseException) -> DataError:
    return DataError(
        f"{path} can't be read: {cause}.",
        allowed="a whole JSONL, CSV or Parquet file",
        action="Write or download the file again.",
    )


def _wrong_kind(path: Path, line: int, field: str, value: Any, allowed: str) -> DataError:
    return DataError(
        f"{path}, line {line}, field {field!r}: {value!r} is not {allowed}.",
        allowed=allowed,
        action="Correct the line.",
    )


def _plural(noun: str, items: list[str]) -> str:
    return noun if len(items) == 1 else f"{noun}s"
