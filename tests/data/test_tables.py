"""Columns of Parquet files and hub tables: the same texts and numbers whatever their type."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.parquet import ParquetWriter

from peml.data.files import needed_rows, read_files
from peml.data.rows import Rows
from peml.data.tables import content_key
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, Task
from tests.tasks import examples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _write(path: Path, *tables: pa.Table) -> Path:
    """A Parquet file with a row group a table."""
    with ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return path


def _table(texts: pa.Array, **others: Any) -> pa.Table:
    return pa.table({"sentence": texts, "label": pa.array([0, 1][: len(texts)]), **others})


def _extra(*names: str) -> Task:
    return examples.sentiment(columns={"inputs": ["sentence"], "extra": names, "label": "label"})


_TEXTS = {
    "string": pa.array(["a", "b"]),
    "large string": pa.array(["a", "b"], pa.large_string()),
    "string view": pa.array(["a", "b"], pa.string_view()),
    "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "large dictionary": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", _TEXTS)
def test_every_kind_of_text_column_is_the_same_text(tmp_path: Path, kind: str) -> None:
    table = _table(_TEXTS[kind])
    rows = read_files([_write(tmp_path / "x.parquet", table)], examples.sentiment())
    assert rows.column("sentence") == ["a", "b"]
    of_hub = needed_rows(Rows.of_table(table), examples.sentiment(), "split")
    assert list(of_hub) == list(rows)
    assert rows.table.schema.field("sentence").type == pa.string()


writes_list_views = pytest.mark.skipif(
    int(pa.__version__.split(".")[0]) < 23, reason="pyarrow 22 writes no list views"
)
_LISTS = (
    pa.list_(pa.string_view()),
    pa.large_list(pa.large_string()),
    pa.list_(pa.string(), 2),
    pytest.param(pa.list_view(pa.string()), marks=writes_list_views),
    pa.list_(pa.dictionary(pa.int32(), pa.string())),
)


@pytest.mark.parametrize("kind", _LISTS, ids=str)
def test_every_kind_of_list_of_texts_is_the_same(tmp_path: Path, kind: pa.DataType) -> None:
    options = [["b", "c"], ["d", "e"]]
    table = pa.table({"start": ["a", "b"], "options": pa.array(options, kind), "answer": [1, 0]})
    rows = read_files([_write(tmp_path / "x.parquet", table)], examples.choice())
    assert rows.column("options") == options


def test_numbers_of_any_width_are_whole_numbers_or_floats(tmp_path: Path) -> None:
    small, half = pa.array([1, 2], pa.uint8()), pa.array([0.1, None], pa.float16())
    table = _table(pa.array(["a", "b"]), n=small, share=half, yes=pa.array([True, None]))
    rows = read_files([_write(tmp_path / "x.parquet", table)], _extra("n", "share", "yes"))
    assert rows[0] == {
        "sentence": "a", "label": "bad", "n": 1, "share": 0.1, "yes": True, SOURCE_ROW: 0
    }  # fmt: skip
    assert rows[1]["share"] is None


_REFUSED_TYPES = {
    "list": pa.array([[1], [2]]),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "list of structs": pa.array([[{"a": 1}], []]),
    "decimal": pa.array([Decimal("1.50"), Decimal("2.00")]),
    "binary": pa.array([b"a", b"b"]),
    "date": pa.array([0, 1], pa.date32()),
    "timestamp": pa.array([datetime(2021, 3, 3), None], pa.timestamp("us")),
    "timestamp of no calendar": pa.array([2**62, -(2**62)], pa.timestamp("us", "UTC")),
    "duration": pa.array([1, 2], pa.duration("s")),
}


@pytest.mark.parametrize("name", ["sentence", "note"])
@pytest.mark.parametrize("kind", _REFUSED_TYPES)
def test_a_type_without_one_plain_meaning_is_refused_by_file_and_field(
    tmp_path: Path, kind: str, name: str
) -> None:
    columns = {"sentence": pa.array(["a", "b"]), name: _REFUSED_TYPES[kind], "label": [0, 1]}
    path = _write(tmp_path / "x.parquet", pa.table(columns))
    task = _extra("note") if name == "note" else examples.sentiment()
    with pytest.raises(DataError, match=f"in the column '{name}'") as caught:
        read_files([path], task)
    assert f"{path} has {str(_REFUSED_TYPES[kind].type)[:3]}" in caught.value.problem
    if name == "note":  # nothing is wrong with a column that isn't read
        assert len(read_files([path], examples.sentiment())) == 2


_BAD_VALUES = {
    "bytes": (pa.array([b"caf\xe9"]).view(pa.string()), "not UTF-8: byte 0xe9 after 'caf'"),
    "bytes in a dictionary": (
        pa.DictionaryArray.from_arrays([0], pa.array([b"caf\xe9"]).view(pa.string())),
        "Invalid UTF8 payload",
    ),
    "bytes in a list": (
        pa.ListArray.from_arrays([0, 2], pa.array([b"a", b"\xff"]).view(pa.string())),
        "not UTF-8: byte 0xff after ''",
    ),
    "too large": (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615 needs more than 64"),
    "no number": (pa.array([float("nan")]), "nan is not a finite number"),
    "endless": (pa.array([float("inf")], pa.float32()), "inf is not a finite number"),
}


@pytest.mark.parametrize("kind", _BAD_VALUES)
def test_a_value_that_cannot_be_kept_is_refused_by_file_row_and_field(
    tmp_path: Path, kind: str
) -> None:
    values, problem = _BAD_VALUES[kind]
    good = _table(pa.array(["a"]), note=pa.nulls(1, values.type))
    bad = _table(pa.array(["b"]), note=values)
    path = _write(tmp_path / "x.parquet", *[good] * 1500, bad)
    with pytest.raises(DataError) as caught:
        read_files([path], _extra("note"))
    assert f"{path}, row 1500 (from 0), field 'note': " in caught.value.problem
    assert problem in caught.value.problem
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert len(read_files([path], examples.sentiment())) == 1501


_TWICE = {
    "text": pa.table([["a"], ["b"], [0]], names=["sentence", "sentence", "label"]),
    "struct": pa.table([[{"a": "x"}], ["b"], [0]], names=["sentence", "sentence.a", "label"]),
    "alias": pa.table([["a"], ["b"], [0]], names=["text", "text", "label"]),
}


@pytest.mark.parametrize("kind", _TWICE)
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, kind: str) -> None:
    name = {"text": "sentence", "struct": "sentence.a", "alias": "text"}[kind]
    columns: dict[str, Any] = {"inputs": [name], "label": "label"}
    if kind == "alias":
        columns = {"inputs": ["sentence"], "label": "label", "aliases": {"sentence": "text"}}
    task = examples.sentiment(columns=columns, template="good?")
    path = _write(tmp_path / "x.parquet", _TWICE[kind])
    for read in (
        lambda: read_files([path], task),
        lambda: needed_rows(Rows.of_table(_TWICE[kind]), task, str(path)),
    ):
        with pytest.raises(DataError, match=f"{path}: the column '{name}' is there twice"):
            read()


def test_two_fields_may_be_read_from_one_column(tmp_path: Path) -> None:
    columns = {"inputs": ["sentence"], "extra": ["copy"], "label": "label"}
    task = examples.sentiment(columns=columns | {"aliases": {"copy": "sentence"}})
    rows = read_files([_write(tmp_path / "x.parquet", _table(pa.array(["a", "b"])))], task)
    assert rows.column("copy") == rows.column("sentence") == ["a", "b"]


def test_a_key_follows_the_content_and_nothing_else() -> None:
    texts = pa.chunked_array([["a"], ["b"]])
    whole, other = _table(pa.array(["a", "b"])), _table(pa.array(["a", "c"]))
    assert content_key(whole) == content_key(_table(texts))
    assert content_key(whole) != content_key(other)
    rows = [needed_rows(Rows.of_table(t), examples.sentiment(), "x").key for t in (whole, other)]
    assert rows[0] != rows[1]


def test_a_short_float_is_the_number_that_was_written(tmp_path: Path) -> None:
    """0.1 in 32 bits is 0.10000000149011612 in 64, and would be printed so."""
    prices = pa.array([0.1, 19.99], pa.float32())
    table = _table(pa.array(["a", "b"]), price=prices, coded=prices.dictionary_encode())
    rows = read_files([_write(tmp_path / "x.parquet", table)], _extra("price", "coded"))
    assert rows.column("price") == rows.column("coded") == [0.1, 19.99]
    options = pa.array([[0.1, 2.5], [19.99, 3.0]], pa.list_(pa.float32()))
    table = pa.table({"start": ["a", "b"], "options": options, "answer": [0, 1]})
    of_hub = needed_rows(Rows.of_table(table), examples.choice(), "split")
    assert of_hub.column("options") == [["0.1", "2.5"], ["19.99", "3"]]
