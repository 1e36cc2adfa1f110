"""The seal at the end of a cached file, which shows whether the file was changed or cut.

::

    Arrow stream | {"key", "rows", "schema", "size", "sha256"} | length of that (8 bytes) | PEMLSEAL

Arrow ignores what follows its stream. The checksum covers streams up to 64 MiB completely. In
larger ones it covers 64 evenly spread blocks of 1 MiB, so that checking takes the same time for any
number of rows. A change between the blocks is found only if it changes the number of rows or bytes.
"""

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
    """Seals a file that holds only an Arrow stream; ``key`` identifies its rows."""
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
        ValueError: There is no seal, or the bytes were changed.
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
    """Raises a ValueError if the table read from a file doesn't match its seal."""
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
