"""Groups of rows stay whole wherever rows are drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.data.fields import flat_row
from peml.data.files import read_files
from peml.data.rows import Rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_task_data
from peml.data.splits import carve_development, draw_groups, read_groups
from peml.errors import DataError
from peml.tasks import Task
from tests.data.rows import Row, write_jsonl
from tests.tasks.examples import sentiment


def judged() -> Task:
    return sentiment(
        columns={"inputs": ["sentence"], "label": "label", "group": ["idx.text", "idx.question"]},
        metrics=["accuracy", "em"],
    )


def answers(count: int) -> list[Row]:
    """Questions of one, two and three answers in turn."""
    return [
        {"sentence": f"{q} {n}", "label": n % 2, "idx": {"text": q // 2, "question": q}}
        for q in range(count)
        for n in range(1 + q % 3)
    ]


def flat(rows: list[Row]) -> Rows:
    return Rows.from_list([flat_row(row, judged().columns) for row in rows])


def test_groups_are_read_from_nested_fields() -> None:
    rows = flat(answers(3))
    assert read_groups(rows, judged()) == [(0, 0), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2)]
    assert read_groups(rows, sentiment()) is None


def test_a_development_split_holds_whole_groups() -> None:
    rows = flat(answers(60))
    train, development = carve_development(rows, judged(), seed=0)
    assert len(train) + len(development) == len(rows)
    assert 9 <= len(development) <= 12  # a tenth of 120, and groups of up to 3
    here, there = read_groups(train, judged()), read_groups(development, judged())
    assert not set(here or ()) & set(there or ())


def test_row_limits_hold_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    for name in ("train", "validation"):
        write_jsonl(tmp_path / "mood" / f"{name}.jsonl", answers(60))
    limits = TasksSettings(suite="x", source=str(tmp_path), rows=20, evaluation_rows=20)
    data = load_task_data(judged(), limits, 0)
    for split in (data.train, data.reported):
        counts = Counter(split.column("idx.question"))
        assert sum(counts.values()) in (18, 19, 20)
        assert all(count == 1 + question % 3 for question, count in counts.items())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_list_is_no_group(tmp_path: Path, form: str) -> None:
    task = sentiment(columns={"inputs": ["sentence"], "label": "label", "group": ["of"]})
    rows = [{"sentence": "a", "label": n, "of": ["x"]} for n in (0, 1)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"field 'of': \['x'\] is a list"):
        read_files([tmp_path / f"rows.{form}"], task)


def test_rows_of_one_group_cannot_be_split() -> None:
    rows = flat([{**answers(3)[0], "label": n} for n in (0, 1)])
    with pytest.raises(DataError, match="all 2 train rows are of one group"):
        carve_development(rows, judged(), 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1), st.integers(1, 12), st.integers(1, 12))
def test_a_smaller_draw_is_part_of_a_larger_one(groups: list[int], most: int, more: int) -> None:
    small, large = draw_groups(groups, most, "s"), draw_groups(groups, most + more, "s")
    assert set(small) <= set(large)
    assert len(small) <= most or len({groups[index] for index in small}) == 1
    assert {groups[i] for i in large}.isdisjoint(
        {group for index, group in enumerate(groups) if index not in large}
    )
