"""A split in several Parquet files, as repositories of the hub have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peml.data.settings import TasksSettings
from peml.data.sources import load_task_data
from peml.errors import DataError
from peml.tasks import Task
from tests.data.rows import moods
from tests.tasks import examples

_COUNT = 7


def _shard(rows: list[dict[str, Any]], folder: Path, split: str, of: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(of):
        part = rows[number * len(rows) // of : (number + 1) * len(rows) // of]
        path = folder / f"{split}-{number:05}-of-{of:05}.parquet"
        pq.write_table(pa.Table.from_pylist(part), path)


def _task(folder: Path) -> Task:
    task = examples.sentiment()
    source = task.source.model_copy(update={"path": str(folder), "hub": None, "generated": None})
    return task.model_copy(update={"source": source})


def _read(folder: Path) -> list[dict[str, Any]]:
    data = load_task_data(_task(folder), TasksSettings(suite="glue", development_rows=1), 0)
    return [*data.train, *data.development]


@pytest.mark.parametrize("inner", ["", "data"])
def test_the_rows_are_those_of_one_file(tmp_path: Path, inner: str) -> None:
    rows = moods(_COUNT)
    for split in ("train", "validation"):
        _shard(rows, tmp_path / "shards" / inner, split)
        _shard(rows, tmp_path / "whole" / inner, split, of=1)
    assert len(_read(tmp_path / "whole")) == _COUNT
    assert _read(tmp_path / "shards") == _read(tmp_path / "whole")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        _shard(moods(_COUNT), tmp_path, split)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"2 of 3 files train-.*-of-00003.parquet"):
        _read(tmp_path)


def test_a_shard_of_another_export_is_no_substitute(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        _shard(moods(_COUNT), tmp_path, split)
    shard = tmp_path / "train-00001-of-00003.parquet"
    shard.rename(tmp_path / "train-00003-of-00003.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00003.parquet is missing"):
        _read(tmp_path)


def test_a_split_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        _shard(moods(_COUNT), tmp_path, split)
        _shard(moods(_COUNT), tmp_path, split, of=2)
    with pytest.raises(DataError, match=r"train 2 times: .*train-.-of-00002.parquet"):
        _read(tmp_path)


def test_a_wrong_row_is_named_with_its_shard(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        _shard(moods(_COUNT), tmp_path, split)
    bad = [{**row, "label": 9} for row in moods(2)]
    pq.write_table(pa.Table.from_pylist(bad), tmp_path / "train-00002-of-00003.parquet")
    with pytest.raises(DataError, match=r"train-\*-of-00003.parquet"):
        _read(tmp_path)
