"""A manifest says what a folder holds; nothing else in it is read, and nothing outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peml.errors import CheckpointError
from peml.files import atomic_folder, checksums, copy_listed, verify_manifest

Alter = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "part").mkdir()
        (partial / "part" / "b.json").write_text("{}")
        (partial / "a.txt").write_text("a")
    return tmp_path / "folder"


def _list(**files: object) -> Alter:
    def alter(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"] |= {name.replace("__", "/"): value for name, value in files.items()}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return alter


def _list_as(name: str) -> Alter:
    def alter(folder: Path) -> None:
        (folder.parent / "outside").write_text("a")
        listed = checksums(folder)
        del listed["manifest.json"]
        content = {"format": 1, "sha256": listed | {name: listed["a.txt"]}}
        (folder / "manifest.json").write_text(json.dumps(content))

    return alter


def _linked(name: str) -> Alter:
    def alter(folder: Path) -> None:
        (folder / name).rename(folder.parent / "moved")
        (folder / name).symlink_to(folder.parent / "moved")

    return alter


def test_a_whole_folder_is_good_and_its_files_are_returned(folder: Path) -> None:
    assert set(verify_manifest(folder, "do", ["a.txt"])) == {"a.txt", "part/b.json"}
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (folder / name).write_text("for people")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    (folder / "empty").mkdir()
    assert set(verify_manifest(folder, "do")) == {"a.txt", "part/b.json"}


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda f: (f / "new.safetensors").write_text(""), r"new\.safetensors is not in the"),
        (lambda f: (f / "part" / "vocab.txt").write_text(""), r"part/vocab\.txt is not in the"),
        (lambda f: (f / "README.md").symlink_to(f / "a.txt"), r"README\.md is not in the"),
        (lambda f: (f / "more").symlink_to(f / "part"), "more is not in the"),
        (lambda f: (f / "manifest.json").write_text('{"sha256": {}}'), r"manifest\.json was alt"),
        (_list(a="short"), r"manifest\.json was altered"),
        (_list(a=3), r"manifest\.json was altered"),
        (_list_as("../outside"), "no file inside the folder"),
        (_list_as("part/../../outside"), "no file inside the folder"),
        (_list_as("/etc/passwd"), "no file inside the folder"),
        (_list_as("./a.txt"), "no file inside the folder"),
        (_list_as("..\\outside"), "no file inside the folder"),
        (_list_as("part"), "part is missing, or no regular file"),
        (_linked("a.txt"), r"a\.txt is a link"),
        (_linked("part"), "part is a link"),
        (_linked("manifest.json"), r"manifest\.json is missing, or no regular file"),
    ],
)
def test_what_is_not_the_folders_is_refused_by_name(alter: Alter, words: str, folder: Path) -> None:
    alter(folder)
    with pytest.raises(CheckpointError, match=words):
        verify_manifest(folder, "restore it")


def test_a_file_that_has_to_be_there_has_to_be_listed(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not list c\.json"):
        verify_manifest(folder, "restore it", ["a.txt", "c.json"])


def test_only_listed_files_of_a_part_are_copied(folder: Path, tmp_path: Path) -> None:
    listed = verify_manifest(folder, "do")
    (folder / "part" / "late.json").symlink_to(folder / "a.txt")
    copy_listed(folder, listed, "part", tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").rglob("*")] == ["b.json"]
