"""A frozen model scored few-shot on tasks in groups, and what such a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from peml.config.loading import load_config
from peml.errors import TrainingError
from peml.run.finished import load_finished, read_texts
from peml.run.pipeline import fit, plan
from peml.serving import load
from tests.data.rows import write_jsonl
from tests.e2e.toy import toy_config
from tests.tasks.examples import sentiment

pytestmark = pytest.mark.e2e

SIZES = {"one": 4, "two": 8, "three": 12}
GROUPS = {"one": "small", "two": "small", "three": "large"}


def _suite(folder: Path) -> Path:
    """Three subjects with as many train rows as there will be shots."""
    tasks = []
    for name, size in SIZES.items():
        rows = [{"sentence": f"the dog is {name} {n}", "label": n % 2} for n in range(size)]
        write_jsonl(folder / "data" / name / "validation.jsonl", rows)
        write_jsonl(folder / "data" / name / "train.jsonl", rows[:3])
        task = sentiment(name=name, group=GROUPS[name], header="Moods:")
        tasks.append(task.model_dump(mode="json", exclude_defaults=True))
    suite = {"name": "moods", "average": "rows", "tasks": tasks}
    (folder / "moods.yaml").write_text(yaml.safe_dump(suite))
    return folder / "moods.yaml"


def _overrides(folder: Path, method: str) -> list[str]:
    return [
        f"tasks.suite={_suite(folder)}",
        f"tasks.source={folder / 'data'}",
        "tasks.shots=3",
        f"method={{name: {method}}}",
    ]


def test_a_frozen_model_is_scored_few_shot(toys: Path, tmp_path: Path) -> None:
    config = load_config(toy_config(toys, "causal", "lora"), _overrides(tmp_path, "frozen"))
    run = fit(config, tmp_path / "run")
    results = run.results
    values = {name: task.value for name, task in results.tasks.items()}
    assert results.average == "rows"
    assert results.mean == pytest.approx(np.average(list(values.values()), weights=[4, 8, 12]))
    assert list(results.groups) == ["small", "large"]
    small = results.groups["small"]
    assert small.tasks == ["one", "two"]
    assert small.mean == pytest.approx((4 * values["one"] + 8 * values["two"]) / 12)
    assert results.groups["large"].mean == values["three"]
    planned = json.loads((run.folder / "plan.json").read_text())["tasks"]
    assert {(task["train"], task["development"]) for task in planned} == {(0, 0)}
    assert "*small*" in (run.folder / "report.md").read_text()
    # What predicts later sees the same shots.
    (one, *_) = load(run.folder, torch.device("cpu")).base.tasks
    assert one.shots.examples[1] == "the dog is one 1 It is good"


def test_texts_of_rows_are_found_where_shots_came_from_the_same_split(
    toys: Path, tmp_path: Path
) -> None:
    overrides = _overrides(tmp_path, "frozen")
    suite = yaml.safe_load((tmp_path / "moods.yaml").read_text())
    for task in suite["tasks"]:
        task |= {"splits": {"train": None}, "shots": {"split": "validation"}}
    (tmp_path / "moods.yaml").write_text(yaml.safe_dump(suite))
    run = fit(load_config(toy_config(toys, "causal", "lora"), overrides), tmp_path / "run")
    kept = load_finished(run.folder).predictions["one"]
    assert list(kept.rows) == [3]
    texts = read_texts(run.folder, kept, kept.rows)
    assert texts[3].inputs == {"sentence": "the dog is one 3"}


def test_nothing_can_be_trained_on_shots_alone(toys: Path, tmp_path: Path) -> None:
    config = load_config(toy_config(toys, "causal", "lora"), _overrides(tmp_path, "lora"))
    for start in (plan, lambda c: fit(c, tmp_path / "run")):
        with pytest.raises(TrainingError, match="no task has train rows") as caught:
            start(config)
        assert caught.value.action
    assert not (tmp_path / "run").exists()
