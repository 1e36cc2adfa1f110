"""Mapped files: written whole or not at all, and memory that is given back."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from peml.data.mapped import in_batches, map_table, write_table
from peml.data.rows import Row, Rows
from peml.errors import DataError

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
    table, pages = map_table(path)
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


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    for content in (b"", b"not Arrow at all"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"rows\.arrow is damaged"):
            _mapped(path)
