"""Writing so that a failure at any moment leaves the old or the new."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import torch

from peml import files
from peml.errors import CheckpointError, RunError
from peml.files import (
    atomic_folder,
    checksums,
    disk_errors,
    new_folder,
    read_json,
    read_tensors,
    refuse_sealed,
    verify_manifest,
    write_json,
    write_tensors,
    write_text,
)


def full(*args: Any, **kwargs: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failed_write_says_where_and_why(code: int, reason: str) -> None:
    with pytest.raises(RunError, match=reason) as caught, disk_errors(Path("some/place")):
        raise OSError(code, os.strerror(code))
    assert "some/place" in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_whoever_may_read_a_folders_manifest_may_read_all_of_it(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model") as partial:
            write_tensors(partial / "a.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {"a.safetensors": 0o640, "manifest.json": 0o640}


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(tmp_path / "model") as partial:
        write_text(partial / "a.txt", "a")

    def closed(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("peml.files.sha256", closed)
    with pytest.raises(CheckpointError, match=r"a\.txt can't be read: permission denied") as caught:
        verify_manifest(tmp_path / "model", "train again")
    assert "read the folder" in caught.value.action


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), disk_errors(Path("x")):
        raise KeyError("mine")


def test_a_file_whose_checksum_is_known_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, str] = {}
    monkeypatch.setattr(files, "sha256", sha256 := Mock(side_effect=files.sha256))
    with atomic_folder(tmp_path / "new", known) as partial:
        for name in ("a", "b"):
            write_text(partial / name, name)
        known |= checksums(partial)
        write_text(partial / "c", "later")
    assert [call.args[0].name for call in sha256.call_args_list] == ["a", "b", "c"]
    assert verify_manifest(tmp_path / "new", "restore it").keys() == {"a", "b", "c"}


def test_text_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ältere")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_text(path, "newer")
    assert path.read_text(encoding="utf-8") == "ältere"
    monkeypatch.undo()
    write_text(path, "newer")
    assert path.read_text() == "newer"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_json_holds_numbers_as_they_are(tmp_path: Path) -> None:
    value = {"best": 1e300, "x": 0.1 + 0.2, "name": "ü", "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 2).bfloat16(),
        "view": torch.randn(4, 4).t()[1:],
        "step": torch.tensor(7.0),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_tensors_that_cannot_be_read_are_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if damage == "cut":
        write_tensors(path, {"x": torch.ones(100)})
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_tensors(path)


def write_folder(target: Path, text: str) -> None:
    with atomic_folder(target) as partial:
        write_text(partial / "a.txt", text)
        write_text(partial / "deep" / "b.txt", text)


def test_a_finished_folder_verifies(tmp_path: Path) -> None:
    write_folder(tmp_path / "c", "one")
    write_folder(tmp_path / "c", "two")
    verify_manifest(tmp_path / "c", "")
    assert (tmp_path / "c/a.txt").read_text() == "two"
    listed = json.loads((tmp_path / "c/manifest.json").read_text())["sha256"]
    assert set(listed) == {"a.txt", "deep/b.txt"}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "")])
def test_a_failed_folder_leaves_the_old_one_and_no_litter(
    error: BaseException, tmp_path: Path
) -> None:
    write_folder(tmp_path / "c", "old")
    wanted = RunError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with atomic_folder(tmp_path / "c") as partial:
            write_text(partial / "a.txt", "new")
            raise error

    with pytest.raises(wanted):
        fail()
    verify_manifest(tmp_path / "c", "")
    assert (tmp_path / "c/a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_what_a_kill_left_behind_does_not_get_into_the_next_folder(tmp_path: Path) -> None:
    left = tmp_path / ".c.partial"
    left.mkdir()
    (left / "old.txt").write_text("half")
    write_folder(tmp_path / "c", "new")
    assert not (tmp_path / "c/old.txt").exists()
    assert not left.exists()


@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "no manifest", "odd manifest"])
def test_damage_is_named_with_what_to_do(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_folder(folder, "some text")
    file = folder / ("manifest.json" if "manifest" in damage else "deep/b.txt")
    match damage:
        case "cut":
            file.write_text("some")
        case "altered":
            file.write_text("some texT")
        case "missing" | "no manifest":
            file.unlink()
        case _:
            file.write_text("[]")
    with pytest.raises(CheckpointError) as caught:
        verify_manifest(folder, "do this")
    assert str(file) in str(caught.value)
    assert "do this" in str(caught.value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_without_a_word_for_a_number_is_not_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"value": 1.0})
    with pytest.raises(RunError, match=r"results\.json: a number in it is NaN or infinite"):
        write_json(path, {"tasks": [{"value": number}]})
    assert read_json(path) == {"value": 1.0}


def test_of_two_that_make_one_new_folder_the_first_to_end_has_it(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def slowly() -> None:
        with new_folder(target) as slow:
            (slow / "a.txt").write_text("slow")
            with new_folder(target) as fast:
                (fast / "a.txt").write_text("fast")
                (fast / "b.txt").write_text("fast")

    with pytest.raises(RunError, match="made by another command"):
        slowly()
    assert (target / "a.txt").read_text() == "fast"
    assert verify_manifest(target, "").keys() == {"a.txt", "b.txt"}
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as partial:
        (partial / "a.txt").write_text("")
    assert verify_manifest(tmp_path / "empty", "").keys() == {"a.txt"}


def test_a_manifest_of_another_program_seals_nothing(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as partial:
        write_text(partial / "weights", "1")
    with pytest.raises(RunError, match=r"more\.txt is inside .*model, which holds only the files"):
        refuse_sealed(tmp_path / "model" / "deep" / "more.txt")
    refuse_sealed(tmp_path / "model")
    for text in ('{"name": "an app"}', "[]", "no JSON"):
        (tmp_path / "manifest.json").write_text(text)
        refuse_sealed(tmp_path / "more.txt")
