"""Writing files so that a kill at any moment leaves the old or the new, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peml.errors import CheckpointError, RunError

__all__ = [
    "atomic_folder",
    "disk_errors",
    "json_line",
    "read_json",
    "read_tensors",
    "sha256",
    "verify_manifest",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]

_MANIFEST = "manifest.json"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a failed write into a message that names the place and the reason."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "permission denied",
            errno.EROFS: "the file system is read-only",
        }
        reason = reasons.get(error.errno or 0, str(error))
        raise RunError(
            f"can't write {path}: {reason}",
            action="make room or choose another folder, then run the same command again: "
            "finished steps are kept",
        ) from error
    except SafetensorError as error:  # safetensors wraps a failed write in its own type
        raise RunError(
            f"can't write {path}: {error}",
            action="make room or choose another folder, then run the same command again: "
            "finished steps are kept",
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step.

    Raises:
        RunError: A number in it is NaN or infinite, for which JSON has no word.
    """
    write_text(path, _to_json(path, value, indent=2) + "\n")


def json_line(path: Path, value: Any) -> str:
    """One line of a file of JSON lines.

    Raises:
        RunError: See `write_json`.
    """
    return _to_json(path, value, indent=None) + "\n"


def _to_json(path: Path, value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(
            f"can't write {path}: a number in it is NaN or infinite, and JSON has no word for that",
            allowed="finite numbers",
            action="report this with the run's config: such a number is a fault of its own",
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        CheckpointError: The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing", action="restore the file, or start a new run folder"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", action="restore the file, or start a new run folder"
        ) from error


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``target`` when the block ends well.

    A manifest with the checksum of every file is written last; what has no manifest was never
    finished.
    """
    partial = target.with_name(f".{target.name}.partial")
    with disk_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _seal(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # half a folder only fills a full disk
            raise
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)


def _seal(folder: Path) -> None:
    """Writes the manifest and makes sure that everything has reached the disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {str(p.relative_to(folder)): sha256(p) for p in files}
    write_json(folder / _MANIFEST, {"format": 1, "sha256": manifest})
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def verify_manifest(folder: Path, action: str) -> None:
    """Checks every file of a folder against its manifest.

    Raises:
        CheckpointError: A file is missing, cut short or altered; it is named.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", action=action)
    manifest = read_json(path)
    listed = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path} was altered: it lists no checksums", action=action)
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", action=action)
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path} was cut short or altered: its checksum is not the manifest's",
                action=action,
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Saves tensors as safetensors."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Loads a safetensors file onto the CPU.

    Raises:
        CheckpointError: The file is missing or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} can't be read: {error}",
            action="restore the file, or start a new run folder",
        ) from error
