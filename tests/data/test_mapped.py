"""Mapped files: written whole or not at all, and memory that is given back."""

from __future__ import annotations

import json
import mmap
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from peml.data.files import read_files
from peml.data.mapped import cache_folder, in_batches, map_table, write_table
from peml.data.rows import Row, Rows
from peml.errors import ConfigError, DataError, RunError
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples

COUNT = 3000
SCHEMA = pa.schema({"text": pa.string(), "number": pa.int64()})


def _content(count: int = COUNT) -> Iterator[Row]:
    return ({"text": f"row {n}", "number": n} for n in range(count))


def _mapped(path: Path, count: int = COUNT) -> Rows:
    return Rows.cached(path, "key", lambda: (SCHEMA, in_batches(_content(count), SCHEMA)))


def _resident(path: Path) -> int:
    """KiB of a file in this process's memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_what_was_read_is_no_longer_resident(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    rows = _mapped(path)
    table, pages = map_table(path, "key")
    assert table.column("number").to_pylist() == list(range(COUNT))
    assert _resident(path)
    pages.release()
    assert not _resident(path)
    for _ in range(2):  # and it can be read again
        assert list(rows) == list(_content())
        assert rows[COUNT - 1] == {"text": f"row {COUNT - 1}", "number": COUNT - 1}
        assert rows.array("number").sum() == sum(range(COUNT))
        assert not _resident(path)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    before = _open_files()
    held = [_mapped(tmp_path / f"{n}.arrow", 2) for n in range(20)]
    assert _open_files() == before
    assert [len(rows) for rows in held] == [2] * 20


def test_nothing_is_released_where_the_system_can_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    assert list(_mapped(tmp_path / "rows.arrow")) == list(_content())


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def failing() -> Iterator[Row]:
        yield from _content(2 * COUNT)
        raise DataError("no more rows")

    with pytest.raises(DataError, match="no more rows"):
        write_table(tmp_path / "rows.arrow", SCHEMA, in_batches(failing(), SCHEMA))
    assert not list(tmp_path.iterdir())


def test_two_that_write_one_file_at_once_both_have_it(tmp_path: Path) -> None:
    """The second writes all of the file while the first is in the middle of it."""
    path = tmp_path / "rows.arrow"

    def interrupted() -> Iterator[Row]:
        for number, row in enumerate(_content()):
            if number == COUNT // 2:
                assert list(_mapped(path)) == list(_content())
            yield row

    first = Rows.cached(path, "key", lambda: (SCHEMA, in_batches(interrupted(), SCHEMA)))
    assert list(first) == list(_content()) == list(_mapped(path))
    assert [found.name for found in tmp_path.iterdir()] == ["rows.arrow"]


def test_who_has_mapped_a_file_keeps_it_when_it_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    rows = _mapped(path)
    write_table(path, SCHEMA, in_batches(_content(1), SCHEMA))
    assert list(rows) == list(_content())


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _fewer(content: bytes) -> bytes:
    return content.replace(b'"rows": 3000', b'"rows": 3001')


def _of_other_columns(content: bytes) -> bytes:
    return content.replace(b"number: int64", b"number: int32")


def _of_other_rows(content: bytes) -> bytes:
    return content.replace(b'"key": "key"', b'"key": "kex"')


def _unsealed(content: bytes) -> bytes:
    return content[: content.rindex(b'{"key"')]


_DAMAGES = {
    "empty": (lambda _: b"", "cut short"),
    "no Arrow": (lambda _: b"not Arrow at all" * 9, "cut short, or something else"),
    "cut": (_cut, "cut short"),
    "one bit": (_flipped, "checksum"),
    "row count": (_fewer, "it holds 3000 rows, and 3001 were written"),
    "columns": (_of_other_columns, "other columns"),
    "another file": (_of_other_rows, "other rows"),
    "no seal": (_unsealed, "cut short"),
    "no checksum": (lambda old: old.replace(b'"sha256"', b'"sha255"'), "checksum"),
    "longer": (lambda old: b"\0" + old, "another size"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_file_is_named_and_made_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.arrow"
    _mapped(path)
    good = path.read_bytes()
    alter, reason = _DAMAGES[damage]
    assert alter(good) != good
    path.write_bytes(alter(good))
    with pytest.raises(DataError, match=rf"rows\.arrow is damaged: .*{reason}"):
        map_table(path, "key")
    with pytest.warns(UserWarning, match=r"rows\.arrow is damaged: .*; it is made again"):
        assert list(_mapped(path)) == list(_content())
    assert path.read_bytes() == good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(_mapped(path)) == list(_content())


@pytest.mark.parametrize("place", ["first", "end of the first block", "last"])
def test_of_a_large_file_blocks_from_the_first_byte_to_the_last_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name, value in (("_BLOCK", 2**14), ("_BLOCKS", 2**4), ("_WHOLE", 2**18)):
        monkeypatch.setattr(f"peml.data.mapped.{name}", value)
    path = tmp_path / "rows.arrow"
    _mapped(path, 10 * COUNT)
    content = bytearray(path.read_bytes())
    size = json.loads(content[content.rindex(b'{"key"') : -16])["size"]
    assert size > 2**19
    positions = {"first": 0, "end of the first block": 2**14 - 1, "last": size - 1}
    content[positions[place]] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="checksum"):
        map_table(path, "key")


@pytest.mark.parametrize("told", ["", "  "])
def test_a_cache_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv("PEML_CACHE", told)
    file = write_jsonl(tmp_path / "rows.jsonl", moods(2))
    for use in (cache_folder, lambda: read_files([file], examples.sentiment())):
        with pytest.raises(ConfigError, match=f"PEML_CACHE is '{told}'") as caught:
            use()
        assert "unset" in caught.value.action


def test_a_cache_that_cannot_be_written_says_how_to_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "file" / "cache"))
    schema = pa.schema({"a": pa.string()})
    with pytest.raises(RunError, match="can't write") as caught:
        write_table(cache_folder() / "x.arrow", schema, ())
    assert "PEML_CACHE" in caught.value.action

    def homeless() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PEML_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="no home") as homeless_error:
        cache_folder()
    assert "PEML_CACHE" in homeless_error.value.action


def test_the_cache_may_be_named_from_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", "~/rows")
    assert cache_folder() == Path.home() / "rows"
