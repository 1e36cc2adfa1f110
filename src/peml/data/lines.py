"""Reads rows from JSONL and CSV files, plain or compressed with gzip.

Folders, dangling links, other encodings and incomplete files are refused; the message names the
line if there is one.
"""

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from peml.data.plain import describe_bad_byte, read_json_row, why_unusable
from peml.errors import DataError

_GZIP = ".gz"
_GZIP_MARK = b"\x1f\x8b"
_OTHER_MARKS = {
    b"PAR1\x15": "a Parquet file",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ": "compressed with xz",
}
_WIDE = {  # the first that fits: UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_MARK = "\ufeff"  # of byte order, which begins a file
_LONGEST_FIELD = 2**31 - 1  # characters; fits a C long on every system


def is_csv(path: Path) -> bool:
    """Whether a file is CSV by its name."""
    return path.name.removesuffix(_GZIP).endswith(".csv")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and content of each row of a file; blank lines are skipped.

    A file is JSONL, or CSV by its name, in UTF-8; either with gzip if its name ends in ``.gz``.

    Raises:
        DataError: The file can't be read to its end, is not UTF-8, or a line is not a row.
    """
    return _csv_rows(path) if is_csv(path) else _jsonl_rows(path)


def check_file(path: Path) -> None:
    """Refuses a path that can't be opened as a file, and says what it is.

    Raises:
        DataError: There is no file, or reading is not permitted.
    """
    problem = ""
    try:
        if path.is_dir():
            problem = "is a folder, not a file"
        elif not path.exists():
            link = f"is a link to {path.readlink()}, which " if path.is_symlink() else ""
            problem = f"{link}is not there"
        elif path.is_file():  # a pipe can be read once only
            path.open("rb").close()
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    if problem:
        raise DataError(
            f"{path} {problem}.",
            allowed="a file that you may read",
            action="Check the path and its permissions, or put the file there.",
        )


def unreadable(path: Path, cause: BaseException) -> DataError:
    """The error for a file whose content can't be read."""
    return DataError(
        f"{path} can't be read: {cause}.",
        allowed="a whole JSONL, CSV or Parquet file",
        action="Write or download the file again.",
    )


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines as bytes, without gzip and byte order mark."""
    check_file(path)
    try:
        with gzip.open(path) if path.suffix == _GZIP else path.open("rb") as file:
            yield _without_mark(path, file.readline())
            yield from file
    except (EOFError, OSError, zlib.error) as error:
        raise unreadable(path, error) from error


def _without_mark(path: Path, line: bytes) -> bytes:
    if line.startswith(_GZIP_MARK):
        problem, action = "is compressed with gzip", f"Name it {path.name}{_GZIP}, or unpack it."
    elif found := next((name for mark, name in _WIDE.items() if line.startswith(mark)), ""):
        action = f"Convert it: iconv -f {found.lower()} -t utf-8 {path.name}"
        problem = f"is {found}"
    elif found := next((name for mark, name in _OTHER_MARKS.items() if line.startswith(mark)), ""):
        problem, action = f"is {found}", "Write or unpack it as what its name says."
    else:
        return line.removeprefix(codecs.BOM_UTF8)
    raise DataError(f"{path} {problem}.", allowed="UTF-8", action=action)


def _text(path: Path, number: int, line: bytes) -> str:
    """A line's text; bytes that aren't UTF-8 become lone surrogates, which UTF-8 never has."""
    if b"\0" in line:
        raise DataError(
            f"{path}, line {number} holds a zero byte.",
            allowed="UTF-8 text",
            action="Convert the file if it is UTF-16; write it again if it was cut off.",
        )
    return line.decode(errors="surrogateescape")


def _check_utf8(path: Path, number: int, line: bytes, field: str = "") -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        in_field = f" (field {field!r})" if field else ""
        raise DataError(
            f"{path}, line {number} is not UTF-8: {describe_bad_byte(error)}{in_field}.",
            allowed="UTF-8",
            action="Convert the file (iconv -f latin1 -t utf-8, if it is Latin-1), or correct the "
            "line.",
        ) from error


def _marked_field(fields: Mapping[str, Any]) -> str:
    """The first field with a byte that :func:`_text` could not read."""
    return next((name for name, value in fields.items() if why_unusable(value)), "")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        row = _json(path, number, line)
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number} holds a {type(row).__name__}, not an object.",
                allowed='one JSON object per line, such as {"sentence": "...", "label": 0}',
                action="Write one row per line.",
            )
        yield number, row


def _json(path: Path, number: int, line: bytes) -> Any:
    text = _text(path, number, line)
    try:
        row = read_json_row(text)
    except ValueError as error:
        _check_utf8(path, number, line)
        action = "Correct the line, or write the file again."
        if "\r" in text.rstrip("\r\n"):
            action = "Carriage returns don't end a line; convert the file to line feeds."
        problem = " is not valid JSON:" if isinstance(error, JSONDecodeError) else ":"
        raise DataError(
            f"{path}, line {number}{problem} {error}.",
            allowed="one JSON object per line, UTF-8, each field once",
            action=action,
        ) from error
    _check_utf8(path, number, line, _marked_field(row) if isinstance(row, dict) else "")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if csv.field_size_limit() < _LONGEST_FIELD:
        # For the whole process. Not lowered again: another thread may be reading a file.
        csv.field_size_limit(_LONGEST_FIELD)
    lines = _CsvLines(path)
    reader = csv.reader(lines, strict=True)
    names: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if names is None:
                lines.check({})
                names = fields
                if repeated := [name for name in names if names.count(name) > 1]:
                    raise csv.Error(f"the column {repeated[0]!r} is there twice")
                if other := _other_separator(names):
                    raise csv.Error(f"its fields are separated by {other!r}")
            elif len(fields) != len(names):
                raise csv.Error(f"{len(names)} fields expected, {len(fields)} found")
            elif len(names) > 1 and [fields[0].removeprefix(_MARK), *fields[1:]] == names:
                raise csv.Error("the header line is there again, as in files that were joined")
            else:
                row = dict(zip(names, fields, strict=True))
                lines.check(row)
                yield reader.line_num, row
    except csv.Error as error:
        lines.check({})
        raise DataError(
            f"{path}, line {reader.line_num} is not valid CSV: {error}.",
            allowed="a header line, then one row per line with as many fields, UTF-8, and commas "
            "between the fields",
            action="Correct the line or write the file again, with texts that hold commas or line "
            "breaks in quotes.",
        ) from error


def _other_separator(names: Sequence[str]) -> str:
    """What separates the fields of a header in which no comma does, as spreadsheets write it."""
    return next((mark for mark in ";\t" if len(names) == 1 and mark in names[0]), "")


class _CsvLines:
    """Lines of a CSV file (a lone carriage return also ends one), and the first not in UTF-8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bad: tuple[int, bytes] | None = None

    def __iter__(self) -> Iterator[str]:
        pieces = (line for piece in _lines(self._path) for line in piece.splitlines(keepends=True))
        for number, line in enumerate(pieces, start=1):
            text = _text(self._path, number, line)
            if self._bad is None and not text.isascii() and why_unusable(text):
                self._bad = (number, line)
            yield text

    def check(self, row: Mapping[str, str]) -> None:
        """Refuses the last row if one of its lines is not UTF-8.

        Raises:
            DataError: The message names the line, and the field if it is known.
        """
        if self._bad is not None:
            number, line = self._bad
            _check_utf8(self._path, number, line, _marked_field(row))
