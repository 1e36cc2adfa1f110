"""Answers as JSON lines, CSV or Parquet: a window of rows at a time, joined at the end."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from io import BytesIO, StringIO
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter, read_table

from peml.data.rows import Row
from peml.data.unlabelled import UnlabelledFile
from peml.errors import DataError
from peml.tasks import Task

ANSWER = ("row", "prediction", "scores")
"""The columns that are written for each row, with the kept ones behind the first."""


class AnswerFormat(ABC):
    """A file format for answers."""

    def __init__(self, rows: UnlabelledFile, task: Task) -> None:
        taken = [name for name in rows.kept if name in ANSWER]
        if taken:
            raise DataError(
                f"the column {taken[0]!r} can't be kept: an answer has a column of this name",
                allowed=f"columns other than {', '.join(ANSWER)}",
                action="rename it in the rows, or name the columns to keep without it",
            )
        self.columns = (ANSWER[0], *rows.kept, *ANSWER[1:])

    @abstractmethod
    def encode(self, answers: Sequence[Row]) -> bytes:
        """A window's answers, each with all `columns`.

        Raises:
            DataError: The format can't hold a kept value.
        """

    @abstractmethod
    def join(self, parts: Iterable[bytes], file: IO[bytes]) -> None:
        """Writes encoded windows as one file, each as soon as it is there."""


class _Lines(AnswerFormat):
    """A text file of a header, which may be empty, and a line per row."""

    def header(self) -> bytes:
        """What stands before the rows."""
        return b""

    def join(self, parts: Iterable[bytes], file: IO[bytes]) -> None:
        """Writes the header, then the lines."""
        file.write(self.header())
        for part in parts:
            file.write(part)
            file.flush()


class JsonLines(_Lines):
    """One JSON object per line."""

    def encode(self, answers: Sequence[Row]) -> bytes:
        """The window's lines."""
        return "".join(
            _json({name: answer[name] for name in self.columns}) + "\n" for answer in answers
        ).encode()


class Csv(_Lines):
    """A header, then a line per row; scores and other nested values are JSON in their cell."""

    def encode(self, answers: Sequence[Row]) -> bytes:
        """The window's lines, without the header."""
        return self._lines([_cell(answer[n]) for n in self.columns] for answer in answers)

    def header(self) -> bytes:
        """The names of the columns."""
        return self._lines([self.columns])

    def _lines(self, rows: Iterable[Sequence[str]]) -> bytes:
        lines = []
        for row in rows:
            # With its own line end the writer leaves a lone carriage return, which ends a line
            # for those who read it, without quotes.
            csv.writer(text := StringIO(newline="")).writerow(row)
            lines.append(text.getvalue().removesuffix("\r\n") + "\n")
        return "".join(lines).encode()


class Parquet(AnswerFormat):
    """A row group per window; kept columns of a Parquet file keep their types."""

    def __init__(self, rows: UnlabelledFile, task: Task) -> None:
        super().__init__(rows, task)
        value = pa.float64() if task.type.has_scale else pa.string()
        kept, scores = rows.kept_schema(), pa.map_(pa.string(), pa.float64())
        ends = [pa.field("prediction", value), pa.field("scores", scores)]
        self._schema = pa.schema([pa.field("row", pa.int64()), *kept, *ends])

    def encode(self, answers: Sequence[Row]) -> bytes:
        """The window as a Parquet file in memory."""
        rows = [answer | {"scores": list(answer["scores"].items())} for answer in answers]
        try:
            table = pa.Table.from_pylist(rows, self._schema)
        except pa.ArrowException as error:
            raise DataError(
                f"a kept column doesn't fit its type: {error}",
                allowed="values that one type holds exactly",
                action="write JSONL, or keep other columns",
            ) from error
        content = BytesIO()
        with ParquetWriter(content, self._schema) as writer:
            writer.write_table(table)
        return content.getvalue()

    def join(self, parts: Iterable[bytes], file: IO[bytes]) -> None:
        """Writes one Parquet file with a row group per window."""
        with ParquetWriter(file, self._schema) as writer:
            for part in parts:
                writer.write_table(read_table(BytesIO(part), schema=self._schema))


FORMATS: Mapping[str, type[AnswerFormat]] = MappingProxyType(
    {"jsonl": JsonLines, "csv": Csv, "parquet": Parquet}
)
"""Formats by the ending of their files."""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, (str, date, time, Decimal)) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text)


def _as_text(value: Any) -> str:
    """Times and decimals as texts, because JSON has no types for them."""
    if isinstance(value, (date, time, Decimal)):
        return str(value)
    raise DataError(
        f"a kept column holds a {type(value).__name__}, which a text file can't hold",
        allowed="texts, numbers, true or false, times, and lists or objects of these",
        action="write Parquet, or keep other columns",
    )
