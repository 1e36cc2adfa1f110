"""Checksums of the files that a base model's weights are loaded from."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from peml.files import sha256
from peml.models.source import find_file, read_source

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_IS_CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # a name in the hub's cache


def weights_checksum(location: str, revision: str | None) -> str:
    """A checksum of all weights of a local folder or a hub repository's snapshot.

    A folder's files are read once per process. Files in the hub's cache have their checksum as
    their name, which is used without reading them.
    """
    total = hashlib.sha256()
    for path in _files(location, revision):
        blob = path.resolve()
        is_named = not Path(location).is_dir() and _IS_CHECKSUM.fullmatch(blob.name)
        content = blob.name if is_named else checksum(blob)
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def checksum(path: Path) -> str:
    """A file's SHA-256; an unchanged file is read once per process."""
    state = path.stat()
    return _checksum(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, *_: int) -> str:
    return sha256(path)


def _files(location: str, revision: str | None) -> Iterable[Path]:
    """The files that Transformers reads: a single one, or those listed in an index."""
    single = find_file(location, _SINGLE, revision)
    if single is not None:
        return [single]
    listed = read_source(location, _INDEX, revision).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) else []
    paths = (find_file(location, str(name), revision) for name in names)
    return [path for path in paths if path is not None]
