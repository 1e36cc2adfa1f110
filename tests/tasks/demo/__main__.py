"""Writes the demo's rows into the package."""

import json
from pathlib import Path

import peml
from tests.tasks.demo import TASKS, generate_demo

_ROWS = Path(peml.__file__).parent / "tasks" / "demo"

for task in TASKS:
    for split, rows in generate_demo(task).items():
        path = _ROWS / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
