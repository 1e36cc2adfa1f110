"""What a comparison says of runs whose scores are known."""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peml.comparison.cells import cells_of
from peml.comparison.choices import choose_values
from peml.comparison.collect import collect
from peml.comparison.matching import Matching, Sized
from peml.comparison.settings import ComparisonConfig, parse_comparison
from peml.errors import PemlError
from peml.evaluation import read_predictions
from peml.evaluation.predictions import predictions_path, write_predictions
from peml.files import write_json
from peml.records.run import Environment
from peml.reporting.comparison.page import write_comparison_report
from tests.comparison.quick import finish, grid_study
from tests.records.made_up import results_of

GOLD = [0, 1] * 10
TASKS: list[dict[str, Any]] = [
    {
        "name": name,
        "type": "classification",
        "version": 1,
        "metric": "accuracy",
        "train": 50,
        "rows": len(GOLD),
        "majority": 0.5,
    }
    for name in ("mood", "same")
]
Right = tuple[int, int]
"""How many of the 20 rows of each task are right."""


def config(**top: Any) -> ComparisonConfig:
    raw = {
        "run": {"tasks": {"suite": "glue"}},
        "methods": {"lora": None, "mtl-lora": None, "peml": None},
        "tuning": None,
    }
    return parse_comparison(raw | top)


def run(folder: Path, right: Right, **options: Any) -> None:
    """A finished cell with so many right rows."""
    said = [[g if row < hits else 1 - g for row, g in enumerate(GOLD)] for hits in right]
    tasks = {task["name"]: (GOLD, predicted) for task, predicted in zip(TASKS, said, strict=True)}
    values = {task["name"]: hits / 20 for task, hits in zip(TASKS, right, strict=True)}
    finish(folder, tasks, values, **options)


def collected(folder: Path, config: ComparisonConfig) -> dict[str, Any]:
    sized = {
        label: Sized(method=m, size="r=8", parameters=100, off_budget=None)
        for label, m in config.methods.items()
    }
    matching = Matching.model_validate({
        "budget": None,
        "steps": {"glue": 10},
        "tasks": {"glue": TASKS},
        "suites": {"glue": sized},
    })  # fmt: skip
    choices = choose_values(config, folder, matching.settings)
    record = collect(config, matching, choices, folder)
    record.write(folder)
    return record.model_dump(mode="json")


def row(content: dict[str, Any], label: str) -> dict[str, Any]:
    return next(row for row in content["suites"][0]["rows"] if row["label"] == label)


def cell(folder: Path, label: str, seed: int) -> Path:
    return folder / "cells" / "glue" / f"{label}-seed{seed}"


def all_runs(folder: Path) -> None:
    for seed in range(3):
        run(cell(folder, "lora", seed), (14 + seed, 12))
        run(cell(folder, "mtl-lora", seed), (16 + seed, 14))
        run(cell(folder, "peml", seed), (18, 17 + seed), seconds={"search": 3.0, "discretise": 1.0})


def test_means_and_deviations_are_over_the_seeds(tmp_path: Path) -> None:
    all_runs(tmp_path)
    content = collected(tmp_path, config())
    means = [(14 + seed + 12) / 40 for seed in range(3)]
    lora = row(content, "lora")
    assert lora["mean"] == pytest.approx(statistics.fmean(means))
    assert lora["deviation"] == pytest.approx(statistics.stdev(means))
    assert lora["tasks"]["mood"] == {
        "mean": pytest.approx(0.75),
        "deviation": pytest.approx(0.05),
        "seeds": 3,
        "flags": [],
        "notes": [],
    }
    assert [c["mean"] for c in lora["cells"]] == pytest.approx(means)
    assert lora["cells"][1]["folder"] == "cells/glue/lora-seed1"
    assert (lora["cells"][0]["steps"], lora["peak_memory_bytes"]) == (10, 100)
    assert lora["seconds"] == {"tuning": 0, "search": 0.0, "train": 2.0}
    assert row(content, "peml")["seconds"] == {"tuning": 0, "search": 4.0, "train": 0.0}
    assert content["suites"][0]["majority_mean"] == 0.5


def test_groups_and_means_over_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_runs(tmp_path)
    alone = row(collected(tmp_path, config()), "lora")
    assert alone["groups"] == {}
    marks: list[dict[str, Any]] = [
        {"group": "first", "rows": 30, "majority": 0.3},
        {"group": "second", "rows": 10, "majority": 0.7},
    ]
    tasks = [{**t, "average": "rows", **m} for t, m in zip(TASKS, marks, strict=True)]
    monkeypatch.setattr(sys.modules[__name__], "TASKS", tasks)
    content = collected(tmp_path, config())
    suite, lora = content["suites"][0], row(content, "lora")
    assert suite["average"] == "rows"
    assert suite["groups"]["first"] == {"tasks": 1, "majority_mean": TASKS[0]["majority"]}
    majorities = [task["majority"] for task in TASKS]
    assert suite["majority_mean"] == pytest.approx((3 * majorities[0] + majorities[1]) / 4)
    assert lora["groups"]["first"] == {
        name: pytest.approx(lora["tasks"][TASKS[0]["name"]][name]) for name in ("mean", "deviation")
    }
    gap = row(content, "peml")["difference"]
    values = [gap["tasks"][task["name"]]["value"] for task in TASKS]
    assert values[0] != pytest.approx(values[1])
    assert gap["value"] == pytest.approx((3 * values[0] + values[1]) / 4)


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    all_runs(tmp_path)
    assert row(collected(tmp_path, config(seeds=[1])), "lora")["deviation"] is None


def test_differences_are_to_the_best_method_that_is_not_the_focus(tmp_path: Path) -> None:
    all_runs(tmp_path)
    content = collected(tmp_path, config())
    assert content["suites"][0]["best_baseline"] == "mtl-lora"
    assert row(content, "mtl-lora")["difference"] is None
    difference = row(content, "peml")["difference"]
    exact = statistics.fmean([(18 + 17 + s) / 40 - (16 + s + 14) / 40 for s in range(3)])
    assert difference["value"] == pytest.approx(exact)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["tasks"]["mood"]["value"] == pytest.approx(0.05)
    assert row(content, "lora")["difference"]["value"] < 0
    other = collected(tmp_path, config(focus="lora"))
    assert other["suites"][0]["best_baseline"] == "peml"


_LEAK: dict[str, Any] = {
    "evaluation": "mood",
    "split": "reported",
    "train": "mood",
    "rows": 12,
    "evaluation_rows": 20,
    "anywhere": 12,
}


def test_rows_that_were_trained_on_flag_task_row_and_cell(tmp_path: Path) -> None:
    skipped = [{"name": "far", "reason": "no data"}]
    for label in ("lora", "mtl-lora"):
        for seed in range(3):
            plan = {"leakage": [_LEAK], "skipped": skipped} if label == "lora" else {}
            run(cell(tmp_path, label, seed), (14, 12), plan=plan)
    content = collected(tmp_path, config(methods={"lora": None, "mtl-lora": None}))
    lora, other = row(content, "lora"), row(content, "mtl-lora")
    said = "12 of 20 rows of mood's reported split are also in its train split: its score is too "
    said += "high."
    assert lora["tasks"]["mood"]["flags"] == [said]
    assert lora["flags"] == ["the mean holds scores of rows that were trained on: mood"]
    assert lora["notes"] == ["far is left out: no data."]
    assert [c["flags"] for c in lora["cells"]] == [[said]] * 3
    assert lora["tasks"]["same"]["flags"] == other["tasks"]["mood"]["flags"] == other["flags"] == []


def test_rows_taken_out_of_training_speak_against_no_score(tmp_path: Path) -> None:
    for seed in range(3):
        plan = {"leakage": [_LEAK], "leakage_action": "drop"}
        run(cell(tmp_path, "lora", seed), (14, 12), plan=plan)
    lora = row(collected(tmp_path, config(methods={"lora": None})), "lora")
    assert lora["flags"] == lora["tasks"]["mood"]["flags"] == []
    assert "dropped from training" in lora["tasks"]["mood"]["notes"][0]


def test_a_failed_cell_is_told_and_never_averaged_in(tmp_path: Path) -> None:
    all_runs(tmp_path)
    for path in cell(tmp_path, "peml", 1).rglob("*.*"):
        path.unlink()
    write_json(cell(tmp_path, "peml", 1).with_name("peml-seed1.json"), {"reason": "it diverged"})
    peml = row(collected(tmp_path, config()), "peml")
    write_comparison_report(tmp_path)
    assert "it diverged" in (tmp_path / "report.md").read_text()
    failed = peml["cells"][1]
    assert (failed["status"], failed["reason"]) == ("failed", "it diverged")
    assert failed["flags"] == ["failed: it diverged"]
    assert failed["mean"] is None
    assert peml["flags"] == ["1 of 3 cells failed, left out of the means: seed 1"]
    assert peml["mean"] == pytest.approx(statistics.fmean([35 / 40, 37 / 40]))
    assert peml["tasks"]["same"]["seeds"] == 2
    # Only the seeds that both have are paired.
    exact = statistics.fmean([(18 + 17 + s) / 40 - (16 + s + 14) / 40 for s in (0, 2)])
    assert peml["difference"]["value"] == pytest.approx(exact)
    assert peml["notes"] == ["its difference to mtl-lora is over seeds 0, 2, finished in both"]


def test_methods_without_a_common_seed_have_no_difference_and_are_told_so(tmp_path: Path) -> None:
    run(cell(tmp_path, "lora", 0), (14, 12))
    run(cell(tmp_path, "mtl-lora", 1), (16, 14))
    lora = row(collected(tmp_path, config()), "lora")
    assert lora["difference"] is None
    assert lora["notes"] == ["no difference to mtl-lora: no seed finished in both"]


def test_what_was_not_run_yet_is_missing(tmp_path: Path) -> None:
    run(cell(tmp_path, "lora", 0), (14, 12))
    content = collected(tmp_path, config())
    assert [c["status"] for c in row(content, "lora")["cells"]] == [
        "finished",
        "missing",
        "missing",
    ]
    assert row(content, "lora")["flags"] == [
        "2 of 3 cells missing, left out of the means: seeds 1, 2"
    ]
    empty = row(content, "peml")
    assert (empty["mean"], empty["difference"], empty["seconds"]["train"]) == (None, None, None)


def test_nothing_at_all_can_be_reported(tmp_path: Path) -> None:
    content = collected(tmp_path, config())
    assert content["suites"][0]["best_baseline"] is None
    assert content["device"] == ""
    write_comparison_report(tmp_path)


def test_a_run_at_its_majority_baseline_is_flagged(tmp_path: Path) -> None:
    all_runs(tmp_path)
    for path in cell(tmp_path, "lora", 2).rglob("*.*"):
        path.unlink()
    (cell(tmp_path, "lora", 2) / "predictions").rmdir()
    run(cell(tmp_path, "lora", 2), (12, 8))
    lora = row(collected(tmp_path, config()), "lora")
    assert lora["cells"][2]["flags"] == ["at or below the majority baseline"]
    assert lora["cells"][0]["flags"] == []
    assert lora["flags"] == ["at or below the majority baseline: seed 2"]
    assert lora["tasks"]["same"]["flags"] == ["at or below the majority baseline: seed 2"]
    assert lora["tasks"]["mood"]["flags"] == []
    assert lora["mean"] == pytest.approx(statistics.fmean([26 / 40, 27 / 40, 20 / 40]))


def test_a_score_that_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    all_runs(tmp_path)
    folder = cell(tmp_path, "lora", 0)
    # as runs of before wrote it; today it is an error
    text = json.dumps(results_of({"mood": math.nan, "same": 0.9}))
    (folder / "results.json").write_text(text)
    lora = row(collected(tmp_path, config()), "lora")
    assert lora["cells"][0]["flags"] == ["mood is not a number"]
    assert lora["cells"][0]["mean"] is None
    assert lora["flags"] == ["1 of 3 cells not a number, left out of the means: seed 0"]
    assert lora["tasks"]["same"]["mean"] == pytest.approx(0.6)
    assert "NaN" not in (tmp_path / "comparison.json").read_text()


def test_runs_scored_on_different_rows_are_refused(tmp_path: Path) -> None:
    all_runs(tmp_path)
    folder = cell(tmp_path, "peml", 1)
    kept = read_predictions(folder, "mood")
    write_predictions(folder, replace(kept, gold=[*kept.gold[:7], 0, *kept.gold[8:]]))
    message = "mood was scored on different rows in peml and mtl-lora: the answer of row 7 is"
    with pytest.raises(PemlError, match=message):
        collected(tmp_path, config())


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    all_runs(tmp_path)
    predictions_path(cell(tmp_path, "peml", 1), "mood").write_text("{")
    with pytest.raises(PemlError, match=r"peml-seed1/predictions/mood\.parquet can't be read"):
        collected(tmp_path, config())


def test_the_grid_and_its_cost_are_told(tmp_path: Path) -> None:
    all_runs(tmp_path)
    tuned = config(tuning={"factors": [0.5, 1, 2]})
    for label in tuned.methods:
        last = None if label == "lora" else 0.6
        grid_study(tmp_path, "glue", label, {2.0: last, 0.5: 0.55, 1.0: 0.575}, seconds=10)
    content = collected(tmp_path, tuned)
    lora = row(content, "lora")
    assert (lora["factor"], lora["seconds"]["tuning"]) == (1, 10)
    assert row(content, "peml")["factor"] == 2
    assert [(g["factor"], g["mean"], g["reason"]) for g in lora["grid"]] == [
        (0.5, 0.55, ""),
        (1, 0.575, ""),
        (2, None, "it diverged"),
    ]
    assert lora["grid"][0]["folder"] == "tuning/glue/lora/trials/0001"


def test_what_was_equal_is_listed_and_what_was_not_is_said(tmp_path: Path) -> None:
    all_runs(tmp_path)
    equal = dict(collected(tmp_path, config())["equal"])
    assert (equal["epochs"], equal["train rows per task"]) == ("3", "50")
    assert (equal["steps"], equal["shots"]) == ("10 on glue", "0")
    assert equal["tuning"] == "none: learning rates as configured"
    assert equal["schedule"] == "linear, warm-up 0.06, clip 1"
    by_group = {"tasks": {"suite": "glue"}, "training": {"clip_by": "group"}}
    assert dict(collected(tmp_path, config(run=by_group))["equal"])["schedule"].endswith(
        "per group"
    )
    results = cell(tmp_path, "lora", 0) / "results.json"
    results.write_text(results.read_text().replace('"train": 10', '"train": 8'))
    assert dict(collected(tmp_path, config())["equal"])["steps"] == "8 to 10 on glue (NOT equal)"


def test_cells_of_other_packages_are_told(tmp_path: Path) -> None:
    all_runs(tmp_path)
    for number, path in enumerate(sorted(tmp_path.glob("cells/*/*"))):
        versions = {"torch": "2.12.0" if number else "2.13.0", "peml": "1.0"}
        Environment(versions=versions).write(path)
    equal = dict(collected(tmp_path, config())["equal"])
    assert equal["packages"] == "torch 2.12.0 and 2.13.0 (NOT equal)"


@pytest.mark.parametrize(("one", "said"), [("fp32", "fp32"), ("bf16", "bf16 and fp32 (NOT equal)")])
def test_the_precision_is_the_cells(tmp_path: Path, one: str, said: str) -> None:
    all_runs(tmp_path)
    assert dict(collected(tmp_path, config())["equal"])["precision"] == "auto"
    for label, compute in (("peml", "fp32"), ("lora", one)):
        path = cell(tmp_path, label, 0) / "results.json"
        precision = {"compute": compute, "weights": "float32", "reason": "r"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": precision}))
    assert dict(collected(tmp_path, config())["equal"])["precision"] == said


def test_cells_of_a_comparison_are_methods_times_seeds(tmp_path: Path) -> None:
    one = config()
    halved = {"training.learning_rate_factor": 0.5}
    cells = cells_of(one, tmp_path, {"glue": dict(one.methods)}, {("glue", "lora"): halved})
    assert [c.folder for c in cells] == [cell(tmp_path, "lora", seed) for seed in range(3)]
    assert {c.config.training.learning_rate_factor for c in cells} == {0.5}
    assert [c.config.seed for c in cells] == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "saved"),
    [
        ({}, [True, False, False]),
        ({"keep_models": True}, [True, True, True]),
        ({"keep_models": False}, [True, False, False]),
    ],
)
def test_models_that_are_not_kept_are_saved_for_latency_alone(
    tmp_path: Path, keep: dict[str, Any], saved: list[bool]
) -> None:
    one = config(**keep)
    cells = cells_of(one, tmp_path, {"glue": dict(one.methods)}, {("glue", "lora"): {}})
    assert [c.config.export for c in cells] == saved
