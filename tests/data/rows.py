"""Writing small data folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from peml.data.rows import Rows
from peml.data.sources import TaskData
from peml.tasks import Task

Row = dict[str, Any]


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def moods(count: int) -> list[Row]:
    """Every third row is good."""
    return [{"sentence": f"text {n}", "label": int(n % 3 == 0), "idx": n} for n in range(count)]


def task_data(
    task: Task,
    train: Sequence[Row],
    reported: Sequence[Row] = (),
    development: Sequence[Row] = (),
) -> TaskData:
    empty = pa.schema([(name, pa.string()) for name in task.columns.needed]).empty_table()

    def split(rows: Sequence[Row]) -> Rows:
        return Rows.from_list(list(rows)) if rows else Rows.of_table(empty)

    return TaskData(task, split(train), split(development), split(reported))
