"""The configs of the paper's settings: valid, dry-run on tiny stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.config.loading import load_config
from peml.run.pipeline import plan
from peml.testing import save_tiny_model
from tests.data.rows import write_jsonl
from tests.tasks.benchmark_rows import ROWS, bundled

FOLDER = Path(__file__).parents[2] / "examples/paper"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def test_there_is_one_for_every_model_and_benchmark() -> None:
    models = ("t5-large", "flan-t5-large", "llama-7b", "llama2-7b")
    suites = ("glue", "superglue", "mmlu", "commonsense")
    assert {path.stem for path in CONFIGS} == {f"{m}-{s}" for m in models for s in suites}
    for path in CONFIGS:
        assert load_config(path).tasks.suite == path.stem.rpartition("-")[2]


def glue_rows() -> dict[str, list[dict[str, Any]]]:
    """Eight rows of each task, by its own columns."""
    return {
        task.name: [
            dict.fromkeys(task.columns.inputs, f"the film was good {n}")
            | {task.columns.label: n % 2, "idx": n}
            for n in range(8)
        ]
        for task in bundled("glue").tasks
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_dry_runs_with_a_tiny_model_of_the_family(path: Path, tmp_path: Path) -> None:
    suite = path.stem.rpartition("-")[2]
    rows = glue_rows() if suite == "glue" else ROWS[suite]
    # Three subjects stand for the 57, which differ in their names alone.
    tasks = bundled(suite).tasks[: 3 if suite == "mmlu" else None]
    for task in tasks:
        for split in (task.splits.train, task.splits.reported[0]):
            write_jsonl(tmp_path / task.name / f"{split}.jsonl", 4 * rows[task.name])
    family = "t5" if "t5" in path.stem else "llama"
    model = save_tiny_model(family, tmp_path / "model")
    names = ", ".join(task.name for task in tasks)
    overrides = [f"model.name={model}", f"tasks.source={tmp_path}", f"tasks.include=[{names}]"]
    overrides += ["tasks.leakage=report", "batches.rows=4"]
    if family == "llama":
        overrides += ["model.max_length=200"]  # the tiny model's positions
    planned = plan(load_config(path, overrides))
    assert [task.name for task in planned.tasks] == [task.name for task in tasks]
    assert planned.steps["search"] > 0
    assert {"lora", "prefix", "architecture"} <= set(planned.trainable_parameters)
