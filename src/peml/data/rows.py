"""The rows of a split: a read-only view of an Arrow table, in memory or mapped from a file.

A view is made in microseconds, so a suite may have thousands of small tasks. Reading from a mapped
file keeps nothing in memory, so a task may have millions of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from peml.data.mapped import BATCH, Pages, open_table

Row = dict[str, Any]
Indices = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]


def index_type(count: int) -> np.dtype[Any]:
    """The integer type of row numbers: 32 bits if that is enough."""
    return np.dtype(np.int32 if count <= np.iinfo(np.int32).max else np.int64)


class _Stored:
    """A table as the batches it was written in."""

    def __init__(self, table: pa.Table, pages: Pages | None) -> None:
        self.table = table
        self.pages = pages
        self._batches = table.to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)

    def read(self, numbers: Indices, names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of some rows; the pages of a mapped file are released afterwards."""
        of_batch = np.searchsorted(self._ends, numbers, side="right")
        cuts = np.flatnonzero(np.diff(of_batch)) + 1
        pieces = []
        for part in np.split(np.arange(len(numbers)), cuts) if len(numbers) else ():
            batch = self._batches[of_batch[part[0]]].select(names)
            within = numbers[part] - (self._ends[of_batch[part[0]]] - len(batch))
            if (np.diff(within) == 1).all():
                pieces.append(batch.slice(int(within[0]), len(within)))
            else:
                pieces.append(batch.take(pa.array(within)))
        table = pa.Table.from_batches(pieces, self.table.select(names).schema)
        columns = {name: table.column(name).to_pylist() for name in names}
        if self.pages is not None:
            self.pages.release()
        return columns


class Rows:
    """Read-only rows of a split, created by the class methods.

    Attributes:
        key: Identifies the content: rows with the same key are the same.
    """

    def __init__(self, stored: _Stored, key: str, numbers: Indices | None = None) -> None:
        self.key = key
        self._stored = stored
        self._numbers = numbers

    @classmethod
    def of_table(cls, table: pa.Table, key: str = "") -> Rows:
        """The rows of a table."""
        return cls(_Stored(table, None), key)

    @classmethod
    def from_list(cls, rows: list[Row]) -> Rows:
        """Rows in memory, with the columns of the first."""
        content = json.dumps(rows).encode()
        return cls.of_table(pa.Table.from_pylist(rows), hashlib.sha256(content).hexdigest())

    @classmethod
    def cached(
        cls, path: Path, key: str, make: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch]]]
    ) -> Rows:
        """Rows mapped from a cached file; arguments and errors as for `open_table`."""
        return cls(_Stored(*open_table(path, key, make)), key)

    @property
    def table(self) -> pa.Table:
        """The whole table behind this view."""
        return self._stored.table

    @property
    def is_mapped(self) -> bool:
        """Whether the rows are in a file, not in memory."""
        return self._stored.pages is not None

    def __len__(self) -> int:
        return self._stored.table.num_rows if self._numbers is None else len(self._numbers)

    def __getitem__(self, position: int) -> Row:
        """One row by its position; negative ones count from the end."""
        index = range(len(self))[position]
        return {name: value for name, (value,) in self.read([index]).items()}

    def __iter__(self) -> Iterator[Row]:
        return self.iterate()

    def iterate(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows in order, read in batches."""
        for first in range(0, len(self), BATCH):
            batch = self.read(range(first, min(first + BATCH, len(self))), columns)
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    def read(
        self, positions: Sequence[int] | Indices, columns: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Columns of some rows, in the order of the positions."""
        names = self.table.column_names if columns is None else list(columns)
        return self._stored.read(self._numbers_at(positions), names)

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return [row[name] for row in self.iterate([name])]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """All values of a column of numbers, (rows,)."""
        values: np.ndarray[Any, Any] = self._stored.table.column(name).to_numpy()
        if self._stored.pages is not None:
            self._stored.pages.release()
        return values if self._numbers is None else values[self._numbers]

    def checksum(self) -> str:
        """A checksum of the rows' values in order, independent of the file's format.

        Reads every row. `key` is free, but depends on the bytes of the file.
        """
        checksum = hashlib.sha256(json.dumps(self.table.column_names).encode())
        for first in range(0, len(self), BATCH):
            values = self.read(range(first, min(first + BATCH, len(self))))
            checksum.update(json.dumps(list(values.values())).encode())
        return checksum.hexdigest()

    def select(self, positions: Sequence[int] | Indices) -> Rows:
        """A view of some of the rows, in the order of the positions."""
        numbers = self._numbers_at(positions)
        key = hashlib.sha256(self.key.encode() + numbers.tobytes()).hexdigest()
        return Rows(self._stored, key, numbers)

    def _numbers_at(self, positions: Sequence[int] | Indices) -> Indices:
        """Row numbers in the table."""
        chosen: Indices = np.asarray(positions, dtype=index_type(self._stored.table.num_rows))
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"there are {len(self)} rows")
        return chosen if self._numbers is None else self._numbers[chosen]
