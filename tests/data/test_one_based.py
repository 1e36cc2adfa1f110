"""Indices of classes that seem to mean something else: counted from 1, or 1 for a first 'yes'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peml.data.sources import load_source
from peml.errors import DataError
from peml.tasks import Task
from tests.data.rows import Row, write_jsonl
from tests.tasks.examples import sentiment

NAMES = ["negative", "neutral", "positive"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _task(folder: Path, form: str, labels: list[Any], names: list[str], **kinds: str) -> Task:
    data = folder / form
    data.mkdir()
    rows: list[Row] = [{"sentence": f"row {n}", "label": label} for n, label in enumerate(labels)]
    for split in ("train", "validation"):
        if form == "csv":
            lines = ["sentence,label", *(f"{row['sentence']},{row['label']}" for row in rows)]
            (data / "train.csv").with_stem(split).write_text("\n".join(lines) + "\n")
        elif form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), data / f"{split}.parquet")
        else:
            write_jsonl(data / f"{split}.jsonl", rows)
    columns = {"inputs": ["sentence"], "label": "label", "kinds": kinds}
    return sentiment(
        source={"path": str(data)}, labels=names, columns=columns, metrics=["accuracy"]
    )


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_indices_without_a_zero_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=r"none of 40 rows is 0(.|\n)*\{label: number\}"):
        load_source(_task(tmp_path, form, [1, 2] * 10, NAMES))


@pytest.mark.parametrize(
    ("labels", "names", "kinds"),
    [
        ([1, 2, 0] * 7, NAMES, {}),
        ([1, 2] * 10, NAMES, {"label": "number"}),
        ([1, 2] * 10, ["0", "1", "2"], {}),  # names
        (["neutral", "positive"] * 10, NAMES, {}),
        ([1, 2] * 3, NAMES, {}),  # may be chance
        ([1] * 20, ["no", "yes"], {}),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_other_labels_are_taken(
    tmp_path: Path, form: str, labels: list[Any], names: list[str], kinds: dict[str, str]
) -> None:
    train, _, _ = load_source(_task(tmp_path, form, labels, names, **kinds))
    read = [name if isinstance(name, str) else names[name] for name in labels]
    assert train.column("label") == read


def test_a_zero_in_one_split_is_enough(tmp_path: Path) -> None:
    task = _task(tmp_path, "jsonl", [1, 2] * 10, NAMES)
    write_jsonl(tmp_path / "jsonl" / "validation.jsonl", [{"sentence": "a", "label": 0}])
    assert len(load_source(task)[0]) == 20


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_indices_of_a_first_yes_and_a_second_no_are_ambiguous(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=r"1 is the index of 'No', .* as \[No, Yes\] .*number}"):
        load_source(_task(tmp_path, form, [1, 0], ["Yes", "No"]))


@pytest.mark.parametrize(
    ("labels", "names", "kinds"),
    [
        ([1, 0], ["no", "yes"], {}),
        ([1, 0], ["yes", "no"], {"label": "number"}),
        ([1, 0], ["yes", "maybe"], {}),
    ],
)
def test_other_indices_of_yes_and_no_are_taken(
    tmp_path: Path, labels: list[int], names: list[str], kinds: dict[str, str]
) -> None:
    train, _, _ = load_source(_task(tmp_path, "csv", labels, names, **kinds))
    assert train.column("label") == [names[1], names[0]]
