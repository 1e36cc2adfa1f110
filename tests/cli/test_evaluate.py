"""`peml evaluate`: scores, paired tests and mistakes of finished runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.evaluation import read_predictions
from peml.evaluation.predictions import predictions_path, write_predictions
from tests.cli.commands import content, peml, rescored
from tests.e2e.fixtures import Runs
from tests.e2e.toy import Row, toy_config

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.e2e


def rows_of(toys: Path, task: str) -> list[Row]:
    path = toys / "data" / task / "validation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_scores_are_those_of_the_results(run: Path, tmp_path: Path, capsys: Capture) -> None:
    before = content(run)
    said = peml(capsys, "evaluate", run, "--json", tmp_path / "out.json")
    assert said.code == 0, said
    told = json.loads((tmp_path / "out.json").read_text())["cautions"][str(run)]
    assert any("of mood's reported split are also in its train split" in text for text in told)
    assert f"! {told[0]}" in " ".join(said.out.split())
    assert content(run) == before
    results = json.loads((run / "results.json").read_text())
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["tasks"]) == list(results["tasks"])
    for name, task in results["tasks"].items():
        scores = found["tasks"][name]
        assert {key: metric["value"] for key, metric in scores["metrics"].items()} == task["all"]
        assert scores["metrics"][task["metric"]]["majority"] == task["majority"]
        assert (scores["headline"], scores["rows"]) == (task["metric"], task["rows"])
        for metric in scores["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
        for word in (
            name,
            f"{task['value']:.3f}",
            f"{scores['metrics'][task['metric']]['low']:.3f}",
        ):
            assert word in said.out
    assert found["mean"]["value"] == pytest.approx(results["mean"])
    assert found["mean"]["majority"] == pytest.approx(results["majority_mean"])
    assert found["run"] == {
        "folder": str(run),
        **{k: results[k] for k in ("method", "model", "seed")},
    }


def test_one_task_alone(run: Path, tmp_path: Path, capsys: Capture) -> None:
    said = peml(capsys, "evaluate", run, "--task", "same", "--json", tmp_path / "out.json")
    assert said.code == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["tasks"]) == ["same"]
    assert found["mean"] == found["tasks"]["same"]["metrics"]["accuracy"]
    assert "mood" not in said.out


def test_two_runs_are_tested_on_the_same_rows(
    run: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = peml(capsys, "evaluate", other, run, "--paired", "--json", tmp_path / "out.json")
    assert said.code == 0, said
    kept = read_predictions(run, "mood")
    wrong = sum(g != p for g, p in zip(kept.gold, kept.predicted, strict=True))
    assert wrong > 1
    found = json.loads((tmp_path / "out.json").read_text())
    mood = found["tasks"]["mood"]
    assert mood["first"] == 1.0
    assert mood["second"] == pytest.approx(1 - wrong / 10)
    assert mood["difference"]["value"] == pytest.approx(wrong / 10)
    assert mood["discordant"] == [wrong, 0]
    assert mood["p_value"] == pytest.approx(2 * 0.5**wrong)  # all on one side
    assert found["tasks"]["closeness"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["tasks"]["closeness"]["p_value"] == 1.0
    assert found["mean"]["difference"]["value"] == pytest.approx(wrong / 10 / 5)
    assert (found["run"]["folder"], found["second"]["folder"]) == (str(other), str(run))
    for word in (f"+{wrong / 10:.3f}", f"{mood['p_value']:.3f}", "McNemar, exact (mood, same"):
        assert word in said.out


def test_mistakes_are_shown_with_their_texts_the_worst_first(
    run: Path, toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ("--errors", "--task", "mood", "--limit", 3, "--json", tmp_path / "out.json")
    said = peml(capsys, "evaluate", run, *words)
    assert said.code == 0, said
    kept, source = read_predictions(run, "mood"), rows_of(toys, "mood")
    margins = {
        row: scores[predicted] - scores[gold]
        for row, gold, predicted, scores in zip(
            kept.rows, kept.gold, kept.predicted, kept.scores, strict=True
        )
        if gold != predicted
    }
    worst = sorted(margins, key=lambda row: -margins[row])[:3]
    found = json.loads((tmp_path / "out.json").read_text())["tasks"]["mood"]
    assert [error["row"] for error in found["errors"]] == worst
    assert (found["wrong"], found["note"]) == (len(margins), "")
    for error in found["errors"]:
        assert error["inputs"] == {"sentence": source[error["row"]]["sentence"]}
        assert error["gold"] == ("bad", "good")[source[error["row"]]["label"]]
        assert error["predicted"] != error["gold"]
        assert error["margin"] == pytest.approx(margins[error["row"]])
        assert f"row {error['row']}: predicted '{error['predicted']}'" in said.out
        assert f"  sentence: {error['inputs']['sentence']}" in said.out
    assert f"{len(margins)} of 10 reported rows are wrong" in said.out


def test_every_type_of_task_shows_its_answers(
    run: Path, toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = peml(capsys, "evaluate", run, "--errors", "--json", tmp_path / "out.json")
    assert said.code == 0, said
    tasks = json.loads((tmp_path / "out.json").read_text())["tasks"]
    assert list(tasks) == ["mood", "same", "closeness", "ending", "rewrite"]
    for error in tasks["ending"]["errors"]:
        row = rows_of(toys, "ending")[error["row"]]
        assert error["options"] == row["options"]
        assert error["gold"] == row["options"][row["answer"]]
    for error in tasks["closeness"]["errors"]:
        assert error["gold"] == rows_of(toys, "closeness")[error["row"]]["score"]
        assert error["margin"] == pytest.approx(abs(error["gold"] - error["predicted"]))
    for error in tasks["rewrite"]["errors"]:
        assert error["gold"] == rows_of(toys, "rewrite")[error["row"]]["target"]


def test_what_is_no_number_is_null_in_json(run: Path, tmp_path: Path, capsys: Capture) -> None:
    rescored(run, "closeness", predicted=[math.nan] * 10)
    out, words = tmp_path / "out.json", ("--task", "closeness")
    said = peml(capsys, "evaluate", run, *words, "--json", out)
    assert said.code == 0, said
    assert json.loads(out.read_text())["mean"] == {
        "value": None,
        "low": None,
        "high": None,
        "majority": 0.0,
    }
    assert "- to -" in said.out
    said = peml(capsys, "evaluate", run, *words, "--errors", "--limit", 1, "--json", out)
    (error,) = json.loads(out.read_text())["tasks"]["closeness"]["errors"]
    assert (error["predicted"], error["margin"]) == (None, None)
    assert "predicted -, right is" in said.out


@pytest.mark.parametrize("split", ["reported", "development"])
def test_a_row_is_known_by_its_number_in_the_source(
    split: str, toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Rows that were drawn or carved have other places in the run than in the source."""
    config = toy_config(
        toys,
        "encoder",
        "lora",
        tasks={"evaluation_rows": 6, "include": ["mood"]},
        evaluation={"split": split, "ablations": False},
        training={"epochs": 1},
    )
    folder = tmp_path / "run"
    assert peml(capsys, "fit", config, "--output", folder).code == 0
    kept = read_predictions(folder, "mood")
    name = "train" if split == "development" else "validation"
    source = [
        json.loads(line) for line in (toys / f"data/mood/{name}.jsonl").read_text().splitlines()
    ]
    assert list(kept.rows) != list(range(len(kept.rows)))
    assert [source[row]["label"] for row in kept.rows] == list(kept.gold)
    rescored(folder, "mood", predicted=[1 - gold for gold in kept.gold])  # all wrong
    out = tmp_path / "out.json"
    assert peml(capsys, "evaluate", folder, "--errors", "--json", out).code == 0
    found = json.loads(out.read_text())["tasks"]["mood"]
    assert (found["split"], found["note"]) == (split, "")
    assert {e["row"]: e["inputs"]["sentence"] for e in found["errors"]} == {
        row: source[row]["sentence"] for row in kept.rows
    }


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("gone", "there is no folder"),
        ("altered", "have changed since the run was scored"),
        ("other texts", "have changed since the run was scored"),
        ("shortened", "have changed since the run was scored"),
        ("task gone", "no task 'mood' any more"),
    ],
)
def test_where_the_data_is_no_longer_there_the_numbers_of_the_rows_are_told(
    change: str, note: str, run: Path, toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = shutil.copytree(toys / "data", tmp_path / "data")
    config = (run / "config.yaml").read_text()
    config = config.replace("source: null", f"source: {data}")
    (run / "config.yaml").write_text(config)
    assert "sentence: " in peml(capsys, "evaluate", run, "--errors", "--task", "mood").out
    rows = data / "mood" / "validation.jsonl"
    match change:
        case "gone":
            shutil.rmtree(data / "mood")
        case "altered":
            flipped = [row | {"label": 1 - row["label"]} for row in rows_of(toys, "mood")]
            rows.write_text("".join(json.dumps(row) + "\n" for row in flipped))
        case "other texts":
            same = [row | {"sentence": f"no, {row['sentence']}"} for row in rows_of(toys, "mood")]
            rows.write_text("".join(json.dumps(row) + "\n" for row in same))
        case "shortened":
            rows.write_text(rows.read_text().splitlines()[0] + "\n")
        case _:
            (run / "config.yaml").write_text(config.replace("exclude: []", "exclude: [mood]"))
    said = peml(capsys, "evaluate", run, "--errors", "--task", "mood", "--limit", 2)
    assert said.code == 0, said
    assert f"the rows' texts can't be shown: {'' if change == 'task gone' else 'Task'}" in said.out
    assert note in said.out
    assert said.out.count("\nrow ") == 2
    assert "sentence: " not in said.out


def refused(capsys: Capture, folders: list[Path], *words: object) -> str:
    """The message of a refusal, which leaves everything as it was."""
    before = [content(folder) for folder in folders if folder.is_dir()]
    out = folders[0].parent / "out.json"
    said = peml(capsys, "evaluate", *words, "--json", out)
    assert said.code == 2, said
    assert said.error.startswith("error: ")
    for part in ("\nAllowed: ", "\nNext: "):
        assert part in said.error
    assert "Traceback" not in said.error
    assert not said.out
    assert not out.exists()
    assert [content(folder) for folder in folders if folder.is_dir()] == before
    return said.error


BAD_RUNS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, ("is no folder", "cells/SUITE/LABEL-seedN")),
    "no run": (lambda run: (run / "config.yaml").unlink(), ("is no run folder",)),
    "not finished": (
        lambda run: (run / "results.json").unlink(),
        ("not finished: it has no results.json", "continues where the run stopped"),
    ),
    "no results": (lambda run: (run / "results.json").write_text("{"), ("not valid JSON",)),
    "no predictions": (
        lambda run: predictions_path(run, "same").unlink(),
        ("same.parquet is missing",),
    ),
    "cut predictions": (
        lambda run: predictions_path(run, "same").write_bytes(b"PAR1"),
        ("same.parquet can't be read",),
    ),
    "other predictions": (
        lambda run: write_predictions(run, _all_first(run, "same")),
        ("same.parquet gives accuracy", "results.json says"),
    ),
}


def _all_first(run: Path, task: str) -> Any:
    kept = read_predictions(run, task)
    return type(kept)(kept.task, kept.rows, kept.gold, [1 - g for g in kept.gold], kept.scores)


@pytest.mark.parametrize("case", BAD_RUNS)
def test_what_is_no_sound_finished_run_is_refused(case: str, run: Path, capsys: Capture) -> None:
    damage, messages = BAD_RUNS[case]
    damage(run)
    said = refused(capsys, [run], run)
    for message in messages:
        assert message in said


def test_a_folder_is_no_json_file(run: Path, tmp_path: Path, capsys: Capture) -> None:
    said = peml(capsys, "evaluate", run, "--json", tmp_path)
    assert said.code == 2, said
    assert f"--json {tmp_path} is a folder" in said.error
    assert "scores.json" in said.error


def test_an_unknown_task_is_refused(run: Path, capsys: Capture) -> None:
    said = refused(capsys, [run], run, "--task", "mod")
    assert "has no task 'mod'. Did you mean 'mood'?" in said
    assert "Allowed: mood, same" in said


def test_other_texts_under_the_same_numbers_and_answers_are_other_rows(
    run: Path, other: Path, capsys: Capture
) -> None:
    plan = json.loads((other / "plan.json").read_text())
    plan["identity"]["tasks"]["mood"]["rows"]["reported"] = "0" * 32
    (other / "plan.json").write_text(json.dumps(plan))
    said = refused(capsys, [run, other], run, other, "--paired")
    assert "mood: the runs were not scored on the same rows: the texts differ" in said
    assert "can't be compared" in peml(capsys, "evaluate", run, other).out
    same = peml(capsys, "evaluate", run, other, "--paired", "--task", "same")
    assert same.code == 0, same


def test_runs_of_other_rows_are_refused(run: Path, other: Path, capsys: Capture) -> None:
    gold = list(read_predictions(other, "same").gold)
    rescored(other, "same", gold=[*gold[:4], 1 - gold[4], *gold[5:]])
    said = refused(capsys, [run, other], run, other, "--paired")
    assert "same: the runs were not scored on the same rows: the answer of row 4 is" in said


def test_runs_of_other_tasks_are_refused_unless_one_is_named(
    run: Path, runs: Runs, capsys: Capture
) -> None:
    encoder = runs("encoder", "lora")
    said = refused(capsys, [run], run, encoder, "--paired")
    assert "different tasks: only the first has rewrite" in said
    assert "--task: mood, same, closeness, ending" in said
    assert peml(capsys, "evaluate", run, encoder, "--paired", "--task", "mood").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paired"], "--paired with one run"),
        (["again", "more", "--paired"], "--paired with 3 runs"),
        (["again", "--errors"], "--errors with 2 runs"),
        (["again", "--paired", "--errors"], "--paired with --errors"),
        (["--limit", "3"], "--limit without --errors"),
        (["--errors", "--resamples", "500"], "--resamples with --errors"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], message: str, run: Path, capsys: Capture
) -> None:
    assert message in refused(capsys, [run], run, *words)
