"""Tasks without training: a context answers as the same rows in the prompt do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import peml
from peml.export import export_model
from peml.testing import save_tiny_model
from tests.benchmarks.conftest import Script


@pytest.fixture
def choices(source: Path) -> Path:
    """Rows whose options differ, so that even a random model's answers do."""
    (source / "piqa").mkdir()
    for split, count in (("train", 12), ("validation", 9)):
        rows = [
            {"goal": f"{split} {n}", "sol1": "the film " * n, "sol2": f"{n} bad", "label": n % 2}
            for n in range(1, count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (source / "piqa" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return source


@pytest.fixture
def cells(tmp_path: Path, source: Path) -> list[Path]:
    """Finished runs: a LoRA, and one with contexts of the trained model."""
    model = str(save_tiny_model("llama", tmp_path / "llama"))
    tasks = {"suite": "glue", "include": ["sst2"], "source": str(source), "rows": 12}
    methods = {
        "lora-seed0": {"name": "lora"},
        "adapted-seed0": {
            "name": "lora+context",
            "context": {"shots": 2, "of": "adapted", "draw": "step"},
        },
    }
    for name, method in methods.items():
        config = {
            "model": {"name": model},
            "tasks": tasks | {"evaluation_rows": 4, "development_rows": 4},
            "method": method,
            "batches": {"rows": 4},
            "training": {"epochs": 1, "precision": "fp32", "learning_rate_factor": 10},
        }
        peml.fit(config, tmp_path / name)
    return [tmp_path / name for name in methods]


def test_an_added_task_is_answered_as_with_its_rows_in_the_prompt(
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    choices: Path,
    cells: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    new_tasks = script("new_tasks")
    monkeypatch.setattr(new_tasks, "SHOTS", 2)
    monkeypatch.setattr(new_tasks, "DEVELOPMENT", 4)
    out, model = tmp_path / "out", str(tmp_path / "llama")
    options = ["--source", str(choices), "--out", str(out), "--tasks", "commonsense/piqa"]
    options += ["--model", model, "--precision", "fp32"]
    new_tasks.main([*map(str, cells), *options])
    table = capsys.readouterr().out
    for way in ("base, nothing shown", "lora, rows in the", "adapted"):
        assert way in table
    new = new_tasks.lay_out(["commonsense/piqa"], str(choices), 0, out / "rows0")
    export_model(cells[1], tmp_path / "text", "text")
    shown = new_tasks.answer_as_is(str(tmp_path / "text"), new, "fp32", 2, tmp_path / "shown")
    found = new_tasks.score_seed(0, cells, model, "fp32", new, out)
    assert found["adapted"] == shown
    assert set(shown["piqa"]) == set(found["right"]["piqa"]) == {0, 1}


def test_solved_rows_show_every_answer_and_differ_by_seed(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choices: Path
) -> None:
    new_tasks = script("new_tasks")
    monkeypatch.setattr(new_tasks, "SHOTS", 4)
    first, second = (
        new_tasks.lay_out(["commonsense/piqa"], str(choices), seed, tmp_path / str(seed))
        for seed in (0, 1)
    )
    (task,) = first.tasks
    assert first.reported(task) == second.reported(task)
    shown = [
        (new.folder / "piqa" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        for new in (first, second)
    ]
    for lines in shown:
        assert sorted(json.loads(line)["label"] for line in lines[:4]) == [0, 0, 1, 1]
    assert shown[0][:4] != shown[1][:4]
