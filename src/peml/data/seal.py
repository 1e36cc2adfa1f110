"""The end of a cached file, which tells whether the file is what was written.

::

    Arrow stream | {"key", "rows", "schema", "size", "sha256"} | length of that (8 bytes) | PEMLSEAL

Arrow reads its stream to the end that it marks itself, and passes over what follows. The checksum
is of the whole stream up to 64 MiB. Of a larger one it is of 64 blocks of 1 MiB, spread evenly from
the first byte to the last, so that a start takes no longer the more rows there are; a change
between the blocks is seen only in the number of rows and bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

_MARK = b"PEMLSEAL"
_LENGTH = 8  # bytes of the length before the mark
_LONGEST = 2**20  # bytes of a seal; more is no seal
_BLOCK = 2**20
_BLOCKS = 64
_WHOLE = _BLOCK * _BLOCKS  # bytes of a stream that is checked from end to end

Seal = dict[str, Any]


def write_seal(path: Path, schema: pa.Schema, rows: int, key: str) -> None:
    """Seals a file that holds an Arrow stream and nothing else.

    Args:
        path: The file.
        schema: Columns of the stream.
        rows: Rows of it.
        key: What tells these rows from others.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        found = _checksum(file, size)
        seal = {"key": key, "rows": rows, "schema": str(schema), "size": size, "sha256": found}
        content = json.dumps(seal).encode()
        file.seek(size)
        file.write(content + len(content).to_bytes(_LENGTH, "big") + _MARK)


def read_seal(path: Path) -> Seal:
    """Reads a file's seal and checks the bytes before it.

    Raises:
        ValueError: There is none, or the bytes are others.
    """
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


def check_seal(seal: Seal, table: pa.Table, key: str) -> None:
    """Checks what was read of a file against its seal.

    Raises:
        ValueError: It holds other rows, or another number of them, or other columns.
    """
    if seal.get("key") != key:
        raise ValueError("it holds other rows than its name says")
    if seal.get("rows") != len(table):
        raise ValueError(f"it holds {len(table)} rows, and {seal.get('rows')} were written")
    if seal.get("schema") != str(table.schema):
        raise ValueError("it holds other columns than were written")


def _checksum(file: BinaryIO, size: int) -> str:
    starts: Iterable[int] = range(0, size, _BLOCK)
    if size > _WHOLE:
        starts = [number * (size - _BLOCK) // (_BLOCKS - 1) for number in range(_BLOCKS)]
    found = hashlib.sha256()
    for start in starts:
        file.seek(start)
        found.update(file.read(min(_BLOCK, size - start)))
    return found.hexdigest()
