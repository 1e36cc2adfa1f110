from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from peml.cli.tasks.command import tasks_app
from peml.errors import DataError, TaskError
from peml.models import ModelSettings, load_family
from peml.tasks import list_suites, load_suite
from peml.testing.models import save_tiny_model
from tests.tasks.examples import sentiment_fields


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")


def _run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(tasks_app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(text)


def test_list_names_every_task() -> None:
    output = _run("list")
    for name in ("demo", "glue", "reviews", "wnli"):
        assert name in output


def test_show_prints_a_task_and_three_rendered_rows() -> None:
    output = _run("show", "grammar")
    assert "unacceptable" in output
    assert output.count("train row") == 3
    assert output.count("Question: Is this sentence grammatical?") == 4  # the template too
    assert output.count("-> ") == 3


def test_list_as_json_has_every_suite_and_task() -> None:
    suites = {suite["name"]: suite for suite in json.loads(_run("list", "--json"))}
    assert tuple(suites) == list_suites()
    [reviews] = [task for task in suites["demo"]["tasks"] if task["name"] == "reviews"]
    assert reviews["type"] == "classification"
    assert reviews["metrics"] == list(load_suite("demo").task("reviews").metrics)
    assert {"name", "version", "description", "tasks"} == set(suites["glue"])


def test_show_prints_one_row_by_its_number(tmp_path: Path) -> None:
    for split, text in (("train", "from train"), ("validation", "from validation")):
        rows = [{"sentence": f"{text} {number}", "label": number % 2} for number in range(5)]
        (tmp_path / "sst2").mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "sst2" / f"{split}.jsonl").write_text(lines)
    show = ("show", "sst2", "--source", str(tmp_path), "--row", "3")
    output = _run(*show)
    assert "train row 3" in output
    assert output.count("from train") == 1
    assert "from train 3" in output
    output = _run(*show, "--split", "reported")
    assert "reported row 3" in output
    assert "from validation 3" in output
    with pytest.raises(TaskError, match=r"no train row 5\nAllowed: 0 to 4"):
        _run(*show[:-1], "5")


def test_show_refuses_a_row_of_a_suite() -> None:
    with pytest.raises(TaskError, match="'demo' is a suite"):
        _run("show", "demo", "--row", "1")


def test_tables_keep_names_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = _run("list")
    assert max(map(len, output.splitlines())) <= 80
    for suite in map(load_suite, list_suites()):
        for task in suite.tasks:
            assert f"\u2502 {task.name} " in output


def test_show_takes_a_suite_and_a_task_of_a_suite() -> None:
    assert "similarity" in _run("show", "demo")
    assert "0, 1, 2, 3, 4, 5" in _run("show", "demo/similarity")


def test_show_names_the_keys_of_a_task_file() -> None:
    shown = _run("show", "demo/endings") + _run("show", "demo/similarity")
    for key in ("columns.inputs", "columns.choices", "columns.label", "scale"):
        assert f"\u2502 {key} " in shown


def test_schema_describes_every_key_and_requires_what_a_format_does_not_fill_in() -> None:
    schema = json.loads(_run("schema"))
    assert schema["required"] == ["name", "source"]
    assert "regression: mae, pearson" in schema["properties"]["metrics"]["description"]
    assert all("description" in each for each in schema["properties"].values())


def test_keys_of_other_tools_are_answered_with_a_tasks_own(tmp_path: Path) -> None:
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields() | {"doc_to_text": "{{ x }}", "scores": [1]}))
    with pytest.raises(TaskError) as caught:
        _run("check", str(file))
    assert "doc_to_text: unknown key. Did you mean 'template'?" in caught.value.problem
    assert "scores: unknown key. Did you mean 'scale'?" in caught.value.problem


def test_show_reads_a_local_folder_and_never_the_hub(tmp_path: Path) -> None:
    assert "--source" in _run("show", "sst2")
    _write_rows(tmp_path / "sst2", [{"sentence": "[b]so so[/b]", "label": 1}])
    assert "[b]so so[/b]" in _run("show", "sst2", "--source", str(tmp_path))


def test_show_suggests_the_nearest_name() -> None:
    with pytest.raises(TaskError, match="Did you mean 'sst2'"):
        _run("show", "sst-2")


def test_check_counts_rows_and_labels(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 1}] * 2
    _write_rows(tmp_path / "data", [*rows, {"sentence": "c", "label": 1}])
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields()))
    output = _run("check", str(file), "--allow-leakage")
    assert "bad: 2, good: 3" in output


def test_check_fails_on_a_bad_row_and_names_it(tmp_path: Path) -> None:
    _write_rows(tmp_path / "data", [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 9}])
    file = tmp_path / "mood.yaml"
    file.write_text(yaml.safe_dump(sentiment_fields()))
    with pytest.raises(DataError, match=r"line 2.*'label': 9 is not a label"):
        _run("check", str(file))


def test_check_reports_every_task_with_a_problem(tmp_path: Path) -> None:
    tasks = [sentiment_fields() | {"name": name, "source": {"path": "."}} for name in "ab"]
    _write_rows(tmp_path / "a", [{"sentence": None, "label": 0}])
    _write_rows(tmp_path / "b", [{"sentense": "b", "label": 0}])
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "own", "tasks": tasks}))
    with pytest.raises(TaskError, match="2 of 2 tasks") as error:
        _run("check", str(file))
    assert "line 1, field 'sentence'" in error.value.problem
    assert "Did you mean 'sentense'" in error.value.problem


def test_check_takes_a_bundled_suite_and_never_asks_the_hub_by_itself() -> None:
    output = _run("check", "superglue")
    assert output.count("hub rows not loaded") == 8


def _similar_tasks(folder: Path) -> Path:
    """Two tasks; a validation row of the second is a train row of the first."""
    for name, rows in {
        "one": [("a fox runs", 0), ("the dog", 1), ("a dog and a fox and a dog", 1)],
        "two": [("The dog.", 0), ("over", 1), ("quick", 1)],
    }.items():
        split = [{"sentence": text, "label": label} for text, label in rows]
        _write_rows(folder / "data" / name, split)
    (folder / "data" / "one" / "validation.jsonl").write_text(
        json.dumps({"sentence": "brown", "label": 1})
    )
    (folder / "data" / "two" / "train.jsonl").write_text(
        json.dumps({"sentence": "lazy", "label": 0})
    )
    tasks = [sentiment_fields() | {"name": name} for name in ("one", "two")]
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "own", "tasks": tasks}))
    return file


def test_check_finds_leakage_between_tasks(tmp_path: Path) -> None:
    output = _run("check", str(_similar_tasks(tmp_path)), code=1)
    assert output.count("Leakage:") == 1
    assert "1 of 3 reported rows of two are in the train rows of one." in output
    assert "! 1 of 3 reported rows of two (33.3%) are train rows, more than" in output
    assert "pass --allow-leakage here" in output


def test_check_bears_leakage_up_to_a_share_or_at_all(tmp_path: Path) -> None:
    file = str(_similar_tasks(tmp_path))
    for options in (["--max-leakage", "0.34"], ["--allow-leakage"]):
        output = _run("check", file, *options)
        assert "Leakage: 1 of 3 reported rows of two" in output
        assert "!" not in output
    _run("check", file, "--max-leakage", "0.33", code=1)


def test_check_counts_a_row_that_leaks_into_two_tasks_once(tmp_path: Path) -> None:
    """Half of its rows are in either train split, so half of them are anywhere, not all."""
    file = str(_similar_tasks(tmp_path))
    _write_rows(
        tmp_path / "both", [{"sentence": "the dog", "label": 0}, {"sentence": "a", "label": 0}]
    )
    for name in ("one", "two"):
        (tmp_path / "data" / name / "train.jsonl").write_text(
            json.dumps({"sentence": "the dog", "label": 0})
        )
    (tmp_path / "both" / "validation.jsonl").rename(tmp_path / "data" / "two" / "validation.jsonl")
    output = _run("check", file, "--max-leakage", "0.5")
    assert output.count("Leakage: 1 of 2 reported rows of two") == 2
    _run("check", file, "--max-leakage", "0.49", code=1)


def test_check_counts_tokens_and_rows_that_would_be_cut(tmp_path: Path) -> None:
    model = save_tiny_model("bert", tmp_path / "model")
    tokenizer = load_family(ModelSettings(name=str(model))).tokenizer
    texts = ("a fox runs", "the dog", "a dog and a fox and a dog", "brown")
    lengths = sorted(len(tokenizer(text)["input_ids"]) for text in texts)
    most = max(8, lengths[2])
    assert lengths[3] > most
    arguments = ("--model", str(model), "--max-length", str(most), "--allow-leakage")
    output = _run("check", str(_similar_tasks(tmp_path)), *arguments)
    line = next(line for line in output.splitlines() if " one " in line)
    # of four rows the median, rounded up, is the third; the longest is cut
    assert f" {lengths[2]} / {most} / {most} \u2502 1 " in " ".join(line.split())
    assert "Leakage" in output


def test_check_says_which_tasks_a_model_can_not_do(tmp_path: Path) -> None:
    model = save_tiny_model("bert", tmp_path / "model")
    rows = [{"question": "How many?", "final_ans": "3"}] * 2
    _write_rows(tmp_path / "data" / "multiarith", rows)
    (tmp_path / "data" / "multiarith" / "test.jsonl").write_text(json.dumps(rows[0]))
    task = load_suite("generation").task("multiarith")
    file = tmp_path / "own.yaml"
    file.write_text(
        yaml.safe_dump(
            task.model_dump(mode="json", exclude_defaults=True)
            | {"splits": {"train": None, "reported": "test"}}
        )
    )
    output = _run("check", str(file), "--source", str(tmp_path / "data"), "--model", str(model))
    assert "not for this model" in output
    assert "reported row 0" in _run("show", "multiarith", "--source", str(tmp_path / "data"))


def test_check_shows_the_tokens_of_answers_and_finds_nested_ones(tmp_path: Path) -> None:
    rows = [
        {"start": "the dog", "options": ["runs", "the fox"], "label": 0},
        {"start": "the fox", "options": ["and a dog", "and a"], "label": 0},
        {"start": "a dog", "options": ["a fox", "fox"], "label": 1},
    ]
    _write_rows(tmp_path / "data", rows)
    fields = {
        "name": "ends",
        "type": "multiple-choice",
        "source": {"path": "data"},
        "columns": {"inputs": ["start"], "choices": "options", "label": "label"},
        "template": "Beginning: {{ start }}",
        "metrics": ["accuracy"],
    }
    file = tmp_path / "ends.yaml"
    file.write_text(yaml.safe_dump(fields))
    check = ("check", str(file), "--allow-leakage", "--model")
    output = _run(*check, str(save_tiny_model("llama", tmp_path / "llama")))
    assert "ends: 'Beginning: the dog' -> Ġ ru n s </s> | Ġthe Ġf ox </s>\n" in output
    assert "1 row has an option that begins with all tokens of another (the first" in output
    assert "is row 1, from 0)" in output
    output = _run(*check, str(save_tiny_model("bert", tmp_path / "bert")))
    assert "->" not in output
    assert "all tokens of another" not in output


def test_show_counts_the_tokens_of_prompts_with_and_without_words(tmp_path: Path) -> None:
    model = save_tiny_model("llama", tmp_path / "model")
    read = load_family(ModelSettings(name=str(model)))
    rows = [{"sentence": text, "label": 0} for text in ("a fox runs", "the dog", "brown")]
    _write_rows(tmp_path / "rows" / "sst2", rows)
    _write_rows(tmp_path / "rows" / "cola", rows[:1])
    means = []
    for words in ("Question: Is this sentence positive or negative?\nAnswer:", ""):
        prompts = [f"{row['sentence']}\n{words}" for row in rows]
        means.append(sum(len(read.context_tokens(prompt)) for prompt in prompts) / 3)
    full, bare = means
    cells = f"{full:.1f} \u2502 {bare:.1f} \u2502 {1 - bare / full:.0%}"
    where = ("--model", str(model), "--source", str(tmp_path / "rows"))
    for name in ("glue/sst2", "two.yaml"):
        if name == "two.yaml":
            tasks = [load_suite("glue").task(name) for name in ("sst2", "cola", "rte")]
            fields = [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]
            (tmp_path / name).write_text(yaml.safe_dump({"name": "two", "tasks": fields}))
            name = str(tmp_path / name)
        output = " ".join(_run("show", name, *where).split())
        assert f"sst2 \u2502 3 \u2502 {cells}" in output
    assert "mean" in output
    assert "rte \u2502 not there" in output
    encoder = save_tiny_model("bert", tmp_path / "encoder")
    with pytest.raises(TaskError, match="has no prompts to count"):
        _run("show", str(tmp_path / "two.yaml"), "--model", str(encoder), *where[2:])


def test_check_notes_what_is_odd_and_refuses_a_metric_that_reads_no_answer(tmp_path: Path) -> None:
    rows = [{"sentence": text, "label": 1} for text in ("a film", " ")]
    _write_rows(tmp_path / "mood", rows)
    task = sentiment_fields() | {"source": {"path": "."}}
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(task))
    said = _run("check", str(file), "--allow-leakage")
    assert "1 row has an empty input (the first is row 1, from 0)" in said
    assert "no row has the label 'bad'" in said
    choice: dict[str, Any] = {"type": "multiple-choice", "labels": []}
    choice["columns"] = {"inputs": ["sentence"], "choices": "options", "label": "label"}
    file.write_text(yaml.safe_dump(task | choice | {"name": "ending"}))
    _write_rows(tmp_path / "ending", [row | {"options": ["x", "y"]} for row in rows])
    assert "labels that are counted from 1" in _run("check", str(file), "--allow-leakage")
    written = {"type": "generation", "labels": [], "metrics": ["rouge_l"], "name": "written"}
    file.write_text(yaml.safe_dump(task | written))
    _write_rows(tmp_path / "written", [row | {"label": "\u4f60\u597d"} for row in rows])
    with pytest.raises(DataError, match="rouge_l can't score 2 of 2 rows"):
        _run("check", str(file), "--allow-leakage")
