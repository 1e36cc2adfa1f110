"""Cached Arrow files: written atomically, sealed and memory-mapped.

Pages that were read count as the process's memory until they are released, and a run reads all of
them at some point. Released pages stay in the system's cache, so reading them again is fast.

A seal at the end of a file shows whether it was changed or cut; it is checked before use::

    Arrow stream | {"key", "rows", "schema", "size", "sha256"} | length of that (8 bytes) | PEMLSEAL

Arrow ignores what follows its stream. The checksum covers streams up to 64 MiB completely. In
larger ones it covers 64 evenly spread blocks of 1 MiB, so that checking takes the same time for any
number of rows. A change between the blocks is found only if it changes the number of rows or bytes.
"""

import ctypes
import hashlib
import json
import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import pyarrow as pa

from peml.errors import ConfigError, DataError
from peml.files import disk_errors

BATCH = 1000
"""Rows per batch of reading and writing."""

_MARK = b"PEMLSEAL"
_OWN_FOLDER = "set the environment variable PEML_CACHE to a folder that this user may write"
_LENGTH = 8  # bytes of the length before the mark
_LONGEST = 2**20  # bytes of a seal; more is no seal
_BLOCK = 2**20
_BLOCKS = 64
_WHOLE = _BLOCK * _BLOCKS  # bytes of a stream that is checked from end to end


def cache_folder() -> Path:
    """Folder of cached rows and tokenised rows: ``PEML_CACHE``, or ``~/.cache/peml``.

    Raises:
        ConfigError: ``PEML_CACHE`` is set and names no folder, or is not set and this user has no
            home.
    """
    told = os.environ.get("PEML_CACHE")
    if told is None:
        try:
            return Path.home() / ".cache" / "peml"
        except RuntimeError as error:
            raise ConfigError(
                "this user has no home for PEML's cache", action=_OWN_FOLDER
            ) from error
    if not told.strip():
        raise ConfigError(
            f"the environment variable PEML_CACHE is {told!r}, which names no folder",
            allowed="the path of a folder, which is created if needed",
            action="set it to a folder, or unset it to use ~/.cache/peml",
        )
    return Path(told).expanduser()


_LIBC = ctypes.CDLL(None)


class Pages:
    """A memory-mapped file. The file itself is closed, since a run may map thousands."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self.content: pa.Buffer = file.read_buffer()

    def release(self) -> None:
        """Releases the memory of pages that were read."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
            _LIBC.madvise(
                ctypes.c_void_p(self.content.address),
                ctypes.c_size_t(self.content.size),
                mmap.MADV_DONTNEED,
            )


def open_table(
    path: Path, key: str, make: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch]]]
) -> tuple[pa.Table, Pages]:
    """Maps a cached file; if it is missing or damaged, first writes the rows of `make`.

    Raises:
        RunError: The file can't be written.
    """
    if path.exists():
        try:
            return map_table(path, key)
        except DataError as error:
            warnings.warn(f"{error.problem}; it is made again", stacklevel=2)
    write_table(path, *make(), key=key)
    return map_table(path, key)


def map_table(path: Path, key: str = "") -> tuple[pa.Table, Pages]:
    """Opens a file of :func:`write_table` after checking its seal.

    Raises:
        DataError: The file is damaged, or holds other rows.
    """
    try:
        seal = _read_seal(path)
        pages = Pages(path)
        table = pa.ipc.open_stream(pages.content).read_all()
        if seal.get("key") != key:
            raise ValueError("it holds other rows than its name says")
        if seal.get("rows") != len(table):
            raise ValueError(f"it holds {len(table)} rows, and {seal.get('rows')} were written")
        if seal.get("schema") != str(table.schema):
            raise ValueError("it holds other columns than were written")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"the cached file {path} is damaged: {error}",
            action="delete it; it will be made again",
        ) from error
    pages.release()
    return table, pages


def in_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as batches for :func:`write_table`; one batch is in memory at a time."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield pa.RecordBatch.from_pylist(batch, schema=schema)


def write_table(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], key: str = ""
) -> None:
    """Writes a file of rows atomically, batch by batch.

    Several processes may write the same file: the last one stays, and mappings of earlier ones
    remain valid.

    Raises:
        RunError: The disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    rows = 0
    with disk_errors(path, f"make room, or {_OWN_FOLDER}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                for batch in batches:
                    stream.write_batch(batch)
                    rows += len(batch)
            _write_seal(partial, schema, rows, key)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _write_seal(path: Path, schema: pa.Schema, rows: int, key: str) -> None:
    """Seals a file that holds only an Arrow stream."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        found = _checksum(file, size)
        seal = {"key": key, "rows": rows, "schema": str(schema), "size": size, "sha256": found}
        content = json.dumps(seal).encode()
        file.seek(size)
        file.write(content + len(content).to_bytes(_LENGTH, "big") + _MARK)


def _read_seal(path: Path) -> dict[str, Any]:
    """A file's seal; raises a ValueError if there is none, or the bytes before it were changed."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _LENGTH - len(_MARK)
        if end < 0:
            raise ValueError("it was cut short")
        file.seek(end)
        length = int.from_bytes(file.read(_LENGTH), "big")
        if file.read() != _MARK or length > min(end, _LONGEST):
            raise ValueError("it was cut short, or something else wrote it")
        file.seek(end - length)
        seal = json.loads(file.read(length))
        if not isinstance(seal, dict) or seal.get("size") != end - length:
            raise ValueError("it has another size than when it was written")
        if _checksum(file, end - length) != seal.get("sha256"):
            raise ValueError("its checksum is another one than when it was written")
    return seal


def _checksum(file: BinaryIO, size: int) -> str:
    starts: Iterable[int] = range(0, size, _BLOCK)
    if size > _WHOLE:
        starts = [number * (size - _BLOCK) // (_BLOCKS - 1) for number in range(_BLOCKS)]
    found = hashlib.sha256()
    for start in starts:
        file.seek(start)
        found.update(file.read(min(_BLOCK, size - start)))
    return found.hexdigest()
