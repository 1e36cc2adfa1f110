"""Rows of a data set of the hub, for which `datasets` stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict, Features, Value

from peml.data.folders import TaskMissingError
from peml.data.settings import TasksSettings
from peml.data.sources import load_all, load_source, load_task_data
from peml.errors import DataError
from peml.tasks import load_suite
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples


def _hub(monkeypatch: pytest.MonkeyPatch, splits: DatasetDict | Exception) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load(*arguments: Any, **options: Any) -> DatasetDict:
        calls.append((*arguments, options))
        if isinstance(splits, Exception):
            raise splits
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_the_hub_is_asked_for_plain_files_and_the_right_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = Features(
        {key: Value("string") for key in ("premise", "hypothesis")}
        | {"label": Value("int64"), "idx": Value("int32")}
    )
    row = {"premise": "a", "hypothesis": "b", "label": 2, "idx": 0}
    splits = {
        name: Dataset.from_list([row] * count, features=features)
        for name, count in {"train": 3, "validation_matched": 2, "validation_mismatched": 1}.items()
    }
    calls = _hub(monkeypatch, DatasetDict(splits))
    train, reported, origin = load_source(load_suite("glue").task("mnli"))
    assert calls == [("nyu-mll/glue", "mnli", {"revision": None})]
    assert (len(train), len(reported), origin.name) == (3, 2, "nyu-mll/glue/mnli")
    assert "idx" not in train.table.column_names


def test_rows_and_shots_are_read_from_a_source_that_is_opened_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = Dataset.from_list(moods(10))
    calls = _hub(monkeypatch, DatasetDict({"train": rows, "validation": rows}))
    task = examples.sentiment(source={"hub": "moods"}, shots={"count": 2})
    data = load_task_data(task, TasksSettings(suite="x"), 0)
    assert len(calls) == 1
    assert len(data.task.shots.examples) == 2
    assert len(data.train) + len(data.development) == 8


@pytest.mark.parametrize(
    ("revision", "kept", "is_right"),
    [
        (None, {"main": "a" * 40}, True),
        (None, {"main": "b" * 40, "v1": "a" * 40}, False),
        ("v1", {"main": "b" * 40, "v1": "a" * 40}, True),
        ("refs/convert/parquet", {"main": "a" * 40}, False),
        ("a" * 40, {}, True),
        ("b" * 40, {}, False),
        (None, {}, True),  # a copy of the cache from another machine may lack what is known
    ],
)
def test_another_revision_is_refused_where_the_hub_is_not_reached(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    revision: str | None,
    kept: dict[str, str],
    is_right: bool,
) -> None:
    """`datasets` takes its latest copy then, whichever revision was asked for."""
    refs = tmp_path / "datasets--x--y" / "refs"
    refs.mkdir(parents=True)
    for name, commit in kept.items():
        (refs / name).write_text(commit)
    copy = tmp_path / ("a" * 40)
    copy.mkdir()
    rows = Dataset.from_list([{"sentence": "a", "label": 0}])
    rows = rows.map(lambda row: row, cache_file_name=str(copy / "rows.arrow"))
    _hub(monkeypatch, DatasetDict({"train": rows, "validation": rows}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    task = examples.sentiment(source={"hub": "x/y", "revision": revision})
    if is_right:
        assert len(load_source(task)[0]) == 1
    else:
        with pytest.raises(DataError, match=rf"its revision a+, not {revision or 'main'}\."):
            load_source(task)


def test_problems_of_the_hub_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_suite("glue").task("sst2")
    _hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(DataError, match=r"nyu-mll/glue(.|\n)*no route(.|\n)*tasks.source"):
        load_source(task)
    _hub(monkeypatch, DatasetDict({"train": Dataset.from_list([{"sentence": "a", "label": 0}])}))
    with pytest.raises(DataError, match="no split validation"):
        load_source(task)


def test_the_hub_stands_in_for_what_a_folder_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Dataset.from_list(moods(10))
    calls = _hub(monkeypatch, DatasetDict({"train": rows, "validation": rows}))
    tasks = [examples.sentiment(name=n, source={"hub": f"x/{n}"}) for n in ("here", "there")]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "here" / f"{split}.jsonl", moods(10))
    fall_back = TasksSettings(suite="x", source=str(tmp_path), missing="hub")
    loaded = load_all(tasks, fall_back, 0)
    assert [item.origin.name for item in loaded.data] == [str(tmp_path / "here"), "x/there"]
    assert [call[0] for call in calls] == ["x/there"]
    with pytest.raises(TaskMissingError):
        load_all([examples.sentiment()], fall_back, 0)
