"""Writes files so that a kill at any moment leaves the old file or the new one, never a part."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from peml.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BY_PEOPLE = ("readme", "license", "licence", "notice")


DISK_REASONS = MappingProxyType(
    {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the file system is read-only",
    }
)
"""Errors of the system for which a user can do something, in words."""

_MAKE_ROOM = (
    "make room or choose another folder, then run the same command again: finished steps are kept"
)


@contextmanager
def disk_errors(path: Path, action: str = _MAKE_ROOM) -> Iterator[None]:
    """Turns a failed write into a message with the place and the reason."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps a failed write in its own type
        reason = DISK_REASONS.get(getattr(error, "errno", None) or 0, str(error))
        raise RunError(f"can't write {path}: {reason}", action=action) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically.

    Raises:
        RunError: A number in it is NaN or infinite, which JSON doesn't allow.
    """
    write_text(path, _to_json(path, value, indent=2) + "\n")


def json_line(path: Path, value: Any) -> str:
    """The line of a value in a file of JSON lines."""
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
    except (FileNotFoundError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(
            f"{path} is missing" if missing else f"{path} is damaged: {error}",
            action="restore the file, or start a new run folder",
        ) from error


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(target: Path, known: Mapping[str, str] = MappingProxyType({})) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``target`` if the block succeeds.

    A manifest with the checksum of every file is written last, so a folder without a manifest is
    unfinished. `known` are checksums that the block has computed, by name; such files aren't read.
    """
    partial = target.with_name(f".{target.name}.partial")
    with disk_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        with _filled(partial, known=known):
            yield partial
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.gone")
        if target.exists():
            target.rename(old)  # a kill while it is removed leaves the new one whole
        partial.replace(target)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_folder(target: Path, verified: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Like `atomic_folder`, but replaces nothing, even if two processes make one folder at once.

    `verified` has the results of checks in the block, for the manifest.

    Raises:
        RunError: ``target`` is not empty.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    with disk_errors(target):
        with _filled(partial, verified):
            yield partial
        try:
            partial.rename(target)  # fails on a folder that is not empty
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not target.exists():
                raise
            raise RunError(
                f"{target} was made by another command meanwhile",
                allowed="a new or an empty folder",
                action="choose another one; nothing in it was changed",
            ) from error


def refuse_sealed(path: Path) -> None:
    """Refuses to write into a folder with a manifest: a file that it doesn't list would damage it.

    Raises:
        RunError: A folder above the path has one.
    """
    for folder in path.resolve().parents:
        manifest = folder / MANIFEST
        try:
            content = read_json(manifest) if manifest.is_file() else None
        except CheckpointError:  # someone else's
            continue
        if isinstance(content, dict) and isinstance(content.get("sha256"), dict):
            raise RunError(
                f"{path} is inside {folder}, which holds only the files that its {MANIFEST} lists",
                allowed="a place outside of models and exports",
                action="choose another one; nothing was changed",
            )


def remove_folder(folder: Path) -> None:
    """Removes a folder atomically, so that a kill leaves no part of it."""
    with disk_errors(folder):
        gone = folder.rename(folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.gone"))
        shutil.rmtree(gone)


@contextmanager
def _filled(
    partial: Path,
    verified: Mapping[str, Any] | None = None,
    known: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[None]:
    """Makes a folder and seals it, or removes it after an error."""
    partial.mkdir(parents=True)
    try:
        yield
        _seal(partial, verified, known)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # half a folder only fills a full disk
        raise


def _seal(folder: Path, verified: Mapping[str, Any] | None, known: Mapping[str, str]) -> None:
    """Writes the manifest and makes sure that all files have reached the disk.

    Every file can then be read by whoever may read the manifest: safetensors writes files that only
    their owner can read, whatever the umask says.
    """
    manifest = checksums(folder, known)
    write_json(folder / MANIFEST, _manifest(manifest, verified))
    readable = (folder / MANIFEST).stat().st_mode
    for name in manifest:
        if (folder / name).stat().st_mode != readable:
            (folder / name).chmod(readable)
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def _manifest(listed: Any, verified: Any) -> dict[str, Any]:
    """A manifest's content; a digest ties the results of checks to the checksums."""
    content = {"format": 1, "sha256": listed}
    if not verified:
        return content
    text = json.dumps([listed, verified], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return {**content, "verified": verified, "digest": digest}


def read_verified(folder: Path) -> dict[str, Any]:
    """The results of checks in the manifest of a folder.

    Call it after `verify_manifest` has passed.
    """
    verified: dict[str, Any] = read_json(folder / MANIFEST).get("verified", {})
    return verified


def checksums(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The checksum of every file in a folder, by its path there; `known` files aren't read."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p.relative_to(folder).as_posix(): p for p in files}
    return {name: known.get(name) or sha256(path) for name, path in names.items()}


def verify_manifest(folder: Path, action: str, required: Iterable[str] = ()) -> dict[str, str]:
    """Checks that a folder has the files in its manifest, and no other file that could be read.

    Files for people may be added (``README``, ``LICENSE``, names that begin with a dot); links are
    never followed. `required` files have to be listed; `action` is the advice for a changed folder.

    Returns:
        The checksum of every file, by its path in the folder.

    Raises:
        CheckpointError: A file is missing, cut short, altered, a link, or not listed; the message
            names it.
    """
    listed = _read_manifest(folder / MANIFEST, action)
    for name in required:
        if name not in listed:
            raise CheckpointError(f"{folder / MANIFEST} does not list {name}", action=action)
    for name, expected in listed.items():
        path = _listed_file(folder, name, action)
        try:
            found = sha256(path)
        except OSError as error:
            raise CheckpointError(
                f"{path} can't be read: {DISK_REASONS.get(error.errno or 0, str(error))}",
                action="let this user read the folder and all files in it",
            ) from error
        if found != expected:
            raise CheckpointError(
                f"{path} was cut short or altered: its checksum is not the manifest's",
                action=action,
            )
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if place.as_posix() in {*listed, MANIFEST} or any(p.startswith(".") for p in place.parts):
            continue
        if path.is_symlink() or not (
            path.is_dir() or path.name.lower().startswith(_READ_BY_PEOPLE)
        ):
            raise CheckpointError(
                f"{path} is not in the manifest: it is no file of this folder's",
                action=f"move it elsewhere; or {action}",
            )
    return listed


def _read_manifest(path: Path, action: str) -> dict[str, str]:
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path} is missing, or no regular file", action=action)
    manifest = read_json(path)
    listed = manifest.get("sha256") if isinstance(manifest, dict) else None
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(value, str) and _SHA256.fullmatch(value) for value in listed.values())
    ):
        raise CheckpointError(
            f"{path} was altered: it lists no checksums, or something else", action=action
        )
    if manifest != _manifest(listed, manifest.get("verified")):
        raise CheckpointError(
            f"{path} was altered: it says something else than its digest", action=action
        )
    return listed


def _listed_file(folder: Path, name: str, action: str) -> Path:
    """The path of a file that the manifest names, inside the folder and reached through no link."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or place.as_posix() != name or "\\" in name:
        raise CheckpointError(
            f"{folder / MANIFEST} lists {name!r}, which is no file inside the folder",
            action=action,
        )
    path = folder / place
    for reached in (path, *(folder / parent for parent in place.parents if parent.parts)):
        if reached.is_symlink():
            raise CheckpointError(f"{reached} is a link", allowed="regular files", action=action)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, or no regular file", action=action)
    return path


def copy_listed(source: Path, listed: Iterable[str], part: str, target: Path) -> None:
    """Copies the files of one part of a folder that `verify_manifest` listed, and no others."""
    for name in listed:
        if name.startswith(f"{part}/"):
            copy = target / name.removeprefix(f"{part}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy, follow_symlinks=False)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Saves tensors as safetensors."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Loads a safetensors file onto the CPU.

    Raises:
        CheckpointError: The file is missing or not a safetensors file.
    """
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} can't be read: {error}",
            action="restore the file, or start a new run folder",
        ) from error
