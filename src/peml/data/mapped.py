"""Arrow files that are read page by page, and whose pages are let go of again.

A mapped file costs no memory of its own, but every page that was touched counts as the process's
until it is released, and a run touches all of them in time. The pages stay in the system's cache,
so reading them again is cheap.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import ConcatenationTable, MemoryMappedTable, concat_tables

__all__ = ["read_rows", "release_pages", "remap"]

_BATCH = 1000


class _Pages:
    """One file's mapping, shared by the copies of its table."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pages:
        return self

    def release(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # not everywhere
            self.content.madvise(mmap.MADV_DONTNEED)


class _MappedTable(MemoryMappedTable):
    """The library's table, on a mapping that is ours."""

    pages: _Pages | None = None

    @classmethod
    def over(cls, path: Path) -> _MappedTable:
        pages = _Pages(path)
        table = cls(pa.ipc.open_stream(pa.py_buffer(pages.content)).read_all(), str(path))
        table.pages = pages
        return table

    def replace_schema_metadata(self, *args: Any, **kwargs: Any) -> _MappedTable:
        """A `Dataset` writes its features into the table it is given; the pages are the same."""
        changed = super().replace_schema_metadata(*args, **kwargs)
        table = _MappedTable(changed.table, changed.path, changed.replays)
        table.pages = self.pages
        return table


def remap(dataset: Dataset) -> Dataset:
    """The same rows, with pages that `release_pages` can let go of.

    Args:
        dataset: All rows of Arrow files in their order; what lies in memory stays as it is.
    """
    tables = [_MappedTable.over(Path(file["filename"])) for file in dataset.cache_files]
    if not tables:
        return dataset
    table = concat_tables(tables) if len(tables) > 1 else tables[0]
    return Dataset(table, info=dataset.info, fingerprint=dataset._fingerprint)


def release_pages(dataset: Dataset) -> None:
    """Lets go of what was read of a dataset's files, where `remap` mapped them."""
    table = dataset.data
    blocks = table.blocks if isinstance(table, ConcatenationTable) else [[table]]
    for block in chain.from_iterable(blocks):
        if isinstance(block, _MappedTable) and block.pages is not None:
            block.pages.release()


def read_rows(dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows in their order, some at a time; nothing of them stays in memory.

    Args:
        dataset: Where they are.
        columns: What to read of them; default: all.
    """
    chosen = dataset if columns is None else dataset.select_columns(list(columns))
    for batch in chosen.iter(batch_size=_BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
        release_pages(dataset)
