"""A task without a train split is scored with the others, and chooses and trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from peml.cli.fit import print_results
from peml.config.loading import load_config
from peml.run.pipeline import fit
from tests.cli.commands import peml
from tests.data.rows import write_jsonl
from tests.e2e.toy import Row, toy_config
from tests.tasks.examples import choice, sentiment

pytestmark = pytest.mark.e2e


def _write_tasks(folder: Path) -> list[str]:
    """One task of groups of rows that is evaluated only, and one of several right texts."""
    judged: Row = {
        "columns": {"inputs": ["sentence"], "label": "label", "group": ["idx.question"]},
        "metrics": ["f1a", "em"],
        "splits": {"train": None},
    }
    tasks = [
        sentiment(name="judged", **judged),
        choice(name="named", metrics=["span_f1", "span_em"]),
    ]
    rows = [{"sentence": "the dog is fun", "label": n % 2, "idx": {"question": n // 2}}
            for n in range(8)]  # fmt: skip
    write_jsonl(folder / "data" / "judged" / "validation.jsonl", rows)
    named = {"start": "the", "options": ["big dog", "dog", "man"], "answer": ["dog", "big dog"]}
    for split in ("train", "validation"):
        write_jsonl(folder / "data" / "named" / f"{split}.jsonl", [named] * 8)
    for task in tasks:
        fields = task.model_dump(mode="json", exclude_defaults=True)
        (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(fields))
    return [str(folder / f"{task.name}.yaml") for task in tasks]


@pytest.mark.parametrize("mixing", ["proportional", "uniform"])
def test_it_is_scored_and_neither_trains_nor_chooses(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mixing: str
) -> None:
    files = ", ".join(_write_tasks(tmp_path))
    config = load_config(
        toy_config(toys, method="lora"),
        [
            f"tasks.files=[{files}]",
            "tasks.include=[mood, judged, named]",
            "training.epochs=1",
            f"batches.mixing.strategy={mixing}",
        ],
    )
    run = fit(config, tmp_path / "run")
    results = json.loads((run.folder / "results.json").read_text())["tasks"]
    assert list(results["judged"]["all"]) == ["f1a", "em"]
    # the same text with either label in every group: half of the answers, and no group, is right
    assert results["judged"]["all"]["em"] == 0
    assert results["judged"]["rows"] == 8
    # half of its rows are positive, and the best constant for F1 is the positive label
    majority = results["judged"]["majority"]
    assert (majority, results["judged"]["majority_of"]) == (pytest.approx(2 / 3), "reported")
    low, value, high = (results["judged"][key] for key in ("low", "value", "high"))
    assert low <= value <= high
    assert results["mood"]["majority_of"] == results["named"]["majority_of"] == "train"
    for page in ("report.md", "report.html"):
        report = (run.folder / page).read_text()
        assert report.count("the task has no train rows") == 1
        assert report.count("0.667*") == 1
    assert results["named"]["value"] in (0, 1)
    assert results["named"]["majority"] == 1
    print_results(run.results, Console(width=120))
    for out in (capsys.readouterr().out, peml(capsys, "evaluate", run.folder).out):
        assert out.count("0.667*") >= 1
        assert out.count("the task has no train rows") == 1
    plan = json.loads((run.folder / "plan.json").read_text())
    rows = {task["name"]: (task["train"], task["development"]) for task in plan["tasks"]}
    assert rows["judged"] == (0, 0)
    assert rows["named"] == (7, 1)
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    chosen = [set(line["tasks"]) for line in lines if line["kind"] == "development"]
    assert chosen
    assert all(names == {"mood", "named"} for names in chosen)
