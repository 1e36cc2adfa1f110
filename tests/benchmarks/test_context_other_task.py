"""The control of masked contexts: each task's rows see another task's solved rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from peml.injection.inject import injection_of
from peml.serving import load
from peml.tasks import TaskRenderer
from peml.testing import save_tiny_model
from tests.benchmarks.conftest import Script


@pytest.mark.e2e
def test_each_task_holds_the_next_ones_rows(script: Script, tmp_path: Path, source: Path) -> None:
    path = tmp_path / "study.yaml"
    tasks = {"suite": "glue", "include": ["sst2", "mrpc"], "source": str(source), "rows": 6}
    config = {
        "run": {
            "model": {"name": str(save_tiny_model("llama", tmp_path / "llama")), "max_length": 100},
            "tasks": tasks | {"evaluation_rows": 5, "development_rows": 4, "leakage": "drop"},
            "training": {"epochs": 1},
        },
        "methods": {
            "masked": {"name": "lora+context", "context": {"shots": 2, "leave_one_out": "masked"}}
        },
        "tuning": None,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    words = [str(path), str(tmp_path / "out"), "--method", "masked", "--seeds", "0"]
    script("context_other_task").main(words)
    base = load(tmp_path / "out/seed0").base
    lengths = [len(base.family.context_tokens(TaskRenderer(task).context())) for task in base.tasks]
    injection = injection_of(base.backbone)
    assert injection is not None
    assert injection.contexts is not None
    held = [injection.contexts.by_task[task].length for task in (0, 1)]
    assert lengths[0] != lengths[1]
    assert held == lengths[::-1]
