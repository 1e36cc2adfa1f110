"""Rows on mapped pages: the same rows, and memory that is given back."""

from __future__ import annotations

import copy
import mmap
import pickle
import sys
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets

from peml.data.mapped import read_rows, release_pages, remap

COUNT = 3000


def _on_disk(folder: Path, name: str = "rows", first: int = 0) -> Dataset:
    rows = Dataset.from_dict({"text": [f"row {first + n}" for n in range(COUNT)]})
    return rows.map(lambda row: row, cache_file_name=str(folder / f"{name}.arrow"))


def _resident(path: Path) -> int:
    """KiB of a file in this process's memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_the_rows_are_the_same(tmp_path: Path) -> None:
    rows = _on_disk(tmp_path)
    found = remap(rows)
    assert found.to_list() == rows.to_list() == list(read_rows(found))
    assert found._fingerprint == rows._fingerprint
    assert found.cache_files == rows.cache_files
    some = found.select([5, 3, 2000])
    assert [row["text"] for row in read_rows(some, ["text"])] == ["row 5", "row 3", "row 2000"]


def test_what_lies_in_memory_stays_as_it_is() -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    assert remap(rows) is rows
    release_pages(rows)
    assert rows[0] == {"text": "a"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_released_pages_are_no_longer_resident(tmp_path: Path) -> None:
    parts = [_on_disk(tmp_path, name, first) for name, first in (("a", 0), ("b", COUNT))]
    paths = [tmp_path / "a.arrow", tmp_path / "b.arrow"]
    rows = remap(concatenate_datasets(parts))
    del parts
    chosen = copy.deepcopy(rows).select(range(1, 2 * COUNT, 2))
    assert len(chosen.to_list()) == COUNT
    assert all(_resident(path) for path in paths)
    release_pages(chosen)
    assert not any(_resident(path) for path in paths)
    assert chosen[COUNT - 1]["text"] == f"row {2 * COUNT - 1}"  # read anew


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_reading_all_rows_leaves_nothing(tmp_path: Path) -> None:
    rows = remap(_on_disk(tmp_path))
    assert sum(1 for _ in read_rows(rows)) == COUNT
    assert not _resident(tmp_path / "rows.arrow")


def test_a_pickled_copy_reads_the_file(tmp_path: Path) -> None:
    rows = remap(_on_disk(tmp_path))
    again = pickle.loads(pickle.dumps(rows))
    release_pages(again)
    assert again.to_list() == rows.to_list()


def test_nothing_is_released_where_the_system_can_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    assert len(list(read_rows(remap(_on_disk(tmp_path))))) == COUNT
