"""The rows of a split: a read-only view of an Arrow table, in memory or mapped from a file.

Making a view costs microseconds, so a suite may have thousands of small tasks; reading a mapped one
leaves nothing in memory, so a task may have millions of rows.
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
Indices = np.ndarray[Any, Any]


def index_type(count: int) -> np.dtype[Any]:
    """The type of a position among so many rows: half as large where that is enough."""
    return np.dtype(np.int32 if count <= np.iinfo(np.int32).max else np.int64)


class _Stored:
    """A table, cut into the batches it was written in."""

    def __init__(self, table: pa.Table, pages: Pages | None) -> None:
        self.table = table
        self.pages = pages
        self._batches = table.to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)

    def read(self, numbers: Indices, names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of the rows of these numbers; what was touched of a file is let go of."""
        of_batch = np.searchsorted(self._ends, numbers, side="right")
        cuts = np.flatnonzero(np.diff(of_batch)) + 1
        pieces = []
        for held in np.split(np.arange(len(numbers)), cuts) if len(numbers) else ():
            batch = self._batches[of_batch[held[0]]].select(names)
            within = numbers[held] - (self._ends[of_batch[held[0]]] - len(batch))
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
    """Rows of a split, read-only; made by its class methods.

    Attributes:
        key: Says which rows they are: what has the same key holds the same rows.
    """

    def __init__(self, stored: _Stored, key: str, numbers: Indices | None = None) -> None:
        self.key = key
        self._stored = stored
        self._numbers = numbers

    @classmethod
    def of_table(cls, table: pa.Table, key: str = "") -> Rows:
        """The rows of a table that belongs to someone else."""
        return cls(_Stored(table, None), key)

    @classmethod
    def from_list(cls, rows: list[Row]) -> Rows:
        """Rows that are held in memory, with the columns of the first."""
        content = json.dumps(rows).encode()
        return cls.of_table(pa.Table.from_pylist(rows), hashlib.sha256(content).hexdigest())

    @classmethod
    def cached(
        cls, path: Path, key: str, make: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch]]]
    ) -> Rows:
        """Rows mapped from a file, which is written first where it is not there or is damaged.

        Args:
            path: The file.
            key: Of its rows.
            make: Gives their columns and the rows, where the file has to be written.

        Raises:
            RunError: It can't be written.
        """
        return cls(_Stored(*open_table(path, key, make)), key)

    @property
    def table(self) -> pa.Table:
        """The table that this is a view of."""
        return self._stored.table

    @property
    def column_names(self) -> list[str]:
        """The columns in their order."""
        return list(self._stored.table.column_names)

    @property
    def is_mapped(self) -> bool:
        """Whether the rows lie in a file, not in memory."""
        return self._stored.pages is not None

    def __len__(self) -> int:
        return self._stored.table.num_rows if self._numbers is None else len(self._numbers)

    def __getitem__(self, position: int) -> Row:
        """One row by its position; negative ones count from the end."""
        found = range(len(self))[position]
        return {name: value for name, (value,) in self.read([found]).items()}

    def __iter__(self) -> Iterator[Row]:
        return self.iterate()

    def iterate(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows in their order, read some at a time.

        Args:
            columns: What to read of them; default: all.
        """
        for first in range(0, len(self), BATCH):
            found = self.read(range(first, min(first + BATCH, len(self))), columns)
            for values in zip(*found.values(), strict=True):
                yield dict(zip(found, values, strict=True))

    def read(
        self, positions: Sequence[int] | Indices, columns: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Columns of some rows, in the order of the positions.

        Args:
            positions: Which rows.
            columns: What to read of them; default: all.
        """
        names = self.column_names if columns is None else list(columns)
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
        """A checksum of what the rows say, in their order, whatever file they come from.

        Every row is read for it; `key` costs nothing, and follows the bytes of a file.
        """
        found = hashlib.sha256(json.dumps(self.column_names).encode())
        for first in range(0, len(self), BATCH):
            values = self.read(range(first, min(first + BATCH, len(self))))
            found.update(json.dumps(list(values.values())).encode())
        return found.hexdigest()

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
