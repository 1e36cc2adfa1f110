"""Made-up comparisons that a test may change, and what it looks for in their tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peml.records.comparison import ComparisonRecord
from peml.reporting.comparison.tables import Cell, Table, score_table
from tests.examples.comparisons import write_example_comparison

Change = Callable[[dict[str, Any]], None]


def example(folder: Path, change: Change | None = None, **options: Any) -> ComparisonRecord:
    path = write_example_comparison(folder, **options) / "comparison.json"
    if change:
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")
    return ComparisonRecord.read(folder)


def scores(comparison: ComparisonRecord) -> Table:
    return score_table(comparison, comparison.suites[0])


def column(table: Table, title: str) -> dict[str, Cell]:
    index = [c.title for c in table.columns].index(title)
    return {row[0].text: row[index] for row in table.all_rows()}


def row_of(data: dict[str, Any], label: str) -> dict[str, Any]:
    row: dict[str, Any] = next(r for r in data["suites"][0]["rows"] if r["label"] == label)
    return row
