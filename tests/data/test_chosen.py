"""Files of solved rows that are chosen by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.data.chosen import read_chosen, take_chosen
from peml.errors import DataError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", "row,task,why\n4,mood,short\n0,same,\n1,mood,long\n"),
        (
            "rows.jsonl",
            '{"task": "mood", "row": 4}\n\n{"task": "same", "row": 0}\n{"row": 1, "task": "mood"}',
        ),
    ],
)
def test_each_tasks_rows_keep_their_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_chosen(tmp_path / name) == {"mood": (4, 1), "same": (0,)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": "mood"}', "line 2 has no row"),
        ('{"text": "good"}', "line 2 has no task and no row"),
        ('{"task": "mood", "row": -1}', "line 2 has the row -1"),
        ('{"task": "mood", "row": "1"}', "line 2 has the row '1'"),
        ('{"task": "mood", "row": true}', "line 2 has the row True"),
        ('{"task": 3, "row": 1}', "line 2 has the task 3"),
        ('{"task": "mood", "row": 7}', "line 2 names row 7 of task 'mood' a second time"),
    ],
)
def test_a_line_that_names_no_row_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"task": "mood", "row": 7}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_chosen(path)


def test_a_task_without_a_line_is_refused() -> None:
    chosen = {"moods": (1,)}
    with pytest.raises(DataError, match=r"no row of task 'mood'.*Did you mean 'moods'") as caught:
        take_chosen(Path("rows.csv"), chosen, "mood")
    assert '{"task": "mood", "row": 0}' in caught.value.action
