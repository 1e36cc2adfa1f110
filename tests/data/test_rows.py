"""A view of rows holds what a list of the same rows would."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peml.data.rows import Row, Rows


def content(count: int) -> list[Row]:
    return [{"text": f"row {n}", "parts": [[n], []][: n % 3], "number": n} for n in range(count)]


def in_pieces(rows: list[Row], sizes: list[int]) -> Rows:
    """The rows in batches of these sizes, in turn."""
    batches, coming, turn = [], iter(rows), 0
    schema = pa.Table.from_pylist(content(3)).schema
    while piece := list(islice(coming, sizes[turn % len(sizes)])):
        batches.append(pa.RecordBatch.from_pylist(piece, schema=schema))
        turn += 1
    return Rows.of_table(pa.Table.from_batches(batches, schema))


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in ("text", "parts", "number")}


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_a_view_is_a_list(count: int, sizes: list[int], data: st.DataObject) -> None:
    wanted = content(count)
    found = in_pieces(wanted, sizes)
    for _ in range(3):
        assert list(found) == wanted
        assert len(found) == len(wanted)
        assert found.column("text") == [row["text"] for row in wanted]
        assert found.array("number").tolist() == [row["number"] for row in wanted]
        if not wanted:
            break
        positions = data.draw(st.lists(st.integers(0, len(wanted) - 1), max_size=20))
        assert found.read(positions) == columns([wanted[n] for n in positions])
        assert found.read(positions, ["parts"]) == {
            "parts": [wanted[n]["parts"] for n in positions]
        }
        assert [found[n] for n in positions] == [wanted[n] for n in positions]
        wanted, found = [wanted[n] for n in positions], found.select(positions)


def test_more_rows_than_are_read_at_once() -> None:
    rows = in_pieces(content(2500), [700])
    assert list(rows) == content(2500)
    odd = rows.select(range(1, 2500, 2))
    assert odd.column("number") == list(range(1, 2500, 2))
    assert list(odd.iterate(["number"]))[-1] == {"number": 2499}


def test_positions_outside_are_refused() -> None:
    rows = Rows.from_list(content(5))
    assert rows[-1] == content(5)[4]
    assert rows.select([1, 2])[-1] == content(5)[2]
    for position in (5, -6):
        with pytest.raises(IndexError):
            rows[position]
    for positions in ([0, 5], [-1], [3, 1, 9]):
        with pytest.raises(IndexError, match="there are 5 rows"):
            rows.read(positions)
        with pytest.raises(IndexError, match="there are 5 rows"):
            rows.select(positions)
    with pytest.raises(IndexError, match="there are 2 rows"):
        rows.select([1, 2]).read([2])


def test_a_key_says_which_rows_they_are(tmp_path: Path) -> None:
    rows = Rows.from_list(content(5))
    assert rows.key == Rows.from_list(content(5)).key != Rows.from_list(content(4)).key
    some = rows.select([1, 2])
    assert some.key == rows.select(range(1, 3)).key
    assert len({rows.key, some.key, rows.select([2, 1]).key, some.select([0]).key}) == 4
    path = tmp_path / "x.arrow"
    schema = pa.schema({"number": pa.int64()})
    assert Rows.cached(path, "ours", lambda: (schema, [])).key == "ours"
    assert list(Rows.cached(path, "ours", lambda: (schema, []))) == []
