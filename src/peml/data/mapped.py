"""Arrow files that are written in one step, and mapped so that their pages can be let go of.

A mapped file costs no memory of its own, but every page that was touched counts as the process's
until it is released, and a run touches all of them in time. The pages stay in the system's cache,
so reading them again is cheap.

A file is not trusted because it is there: its seal (`seal.py`) is checked before it is used.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from peml.data.seal import check_seal, read_seal, write_seal
from peml.errors import ConfigError, DataError
from peml.files import disk_errors

BATCH = 1000
"""Rows that are read or written at once."""


def cache_folder() -> Path:
    """Where rows and tokenised rows are kept: ``PEML_CACHE``, or ``~/.cache/peml``.

    Raises:
        ConfigError: ``PEML_CACHE`` is set and names no folder.
    """
    told = os.environ.get("PEML_CACHE")
    if told is None:
        return Path.home() / ".cache" / "peml"
    if not told.strip():
        raise ConfigError(
            f"the environment variable PEML_CACHE is {told!r}, which names no folder",
            allowed="the path of a folder, which is made where it is not there",
            action="name one, or unset PEML_CACHE to use ~/.cache/peml",
        )
    return Path(told).expanduser()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class Pages:
    """A file's mapping. No file stays open for it: a run may map thousands."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self.content: pa.Buffer = file.read_buffer()

    def release(self) -> None:
        """Lets go of what was read; it is read anew when it is wanted."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not everywhere
            _libc().madvise(
                ctypes.c_void_p(self.content.address),
                ctypes.c_size_t(self.content.size),
                mmap.MADV_DONTNEED,
            )


def open_table(
    path: Path, key: str, make: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch]]]
) -> tuple[pa.Table, Pages]:
    """Maps a file of the cache; it is written where it isn't there, and again where it is damaged.

    Args:
        path: The file.
        key: Of its rows.
        make: Gives their columns and the rows, where the file has to be written.

    Raises:
        RunError: It can't be written.
    """
    if path.exists():
        try:
            return map_table(path, key)
        except DataError as error:
            warnings.warn(f"{error.problem}; it is made again", stacklevel=2)
    write_table(path, *make(), key=key)
    return map_table(path, key)


def map_table(path: Path, key: str = "") -> tuple[pa.Table, Pages]:
    """Opens a file that :func:`write_table` wrote, once it is sure that it is that file.

    Raises:
        DataError: It is not the file that was written.
    """
    try:
        written = read_seal(path)
        pages = Pages(path)
        table = pa.ipc.open_stream(pages.content).read_all()
        check_seal(written, table, key)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"the cached file {path} is damaged: {error}",
            action="delete it; it will be made again",
        ) from error
    pages.release()
    return table, pages


def in_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as :func:`write_table` wants them; no more than a batch of them is held."""
    coming = iter(rows)
    while held := list(islice(coming, BATCH)):
        yield pa.RecordBatch.from_pylist(held, schema=schema)


def write_table(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], key: str = ""
) -> None:
    """Writes a file of rows, a batch at a time; it is there when all of it is.

    Processes that write the same file at once don't disturb each other: the last one stays, and
    who has mapped an earlier one keeps it.

    Raises:
        RunError: The disk is full, or may not be written to.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    rows = 0
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                for batch in batches:
                    stream.write_batch(batch)
                    rows += len(batch)
            write_seal(partial, schema, rows, key)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
