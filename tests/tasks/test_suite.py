from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from peml.errors import TaskError
from peml.tasks import Task, TaskType, list_suites, load_suite, load_task_file
from tests.tasks import examples
from tests.tasks.examples import sentiment_fields

CHOICE = {
    "type": "multiple-choice",
    "columns": {"inputs": ["sentence"], "choices": ["a", "b"], "label": "label"},
    "labels": [],
}


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_bundled_suites_load() -> None:
    plain = ("demo", "generation", "glue", "mmlu", "superglue")
    assert list_suites() == ("commonsense", "commonsense-instruct", *plain)
    assert len(load_suite("glue").tasks) == 9
    assert {task.type for task in load_suite("demo").tasks} == set(TaskType)


def test_glue_is_as_on_the_hub() -> None:
    suite = load_suite("glue")
    fields = {
        "cola": ("sentence",),
        "sst2": ("sentence",),
        "mrpc": ("sentence1", "sentence2"),
        "qqp": ("question1", "question2"),
        "stsb": ("sentence1", "sentence2"),
        "mnli": ("premise", "hypothesis"),
        "qnli": ("question", "sentence"),
        "rte": ("sentence1", "sentence2"),
        "wnli": ("sentence1", "sentence2"),
    }
    headlines = {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"}
    for task in suite.tasks:
        assert task.source.hub == "nyu-mll/glue"
        assert task.source.subset == task.name
        assert task.columns.inputs == fields[task.name]
        assert task.metrics[0] == headlines.get(task.name, "accuracy")
    assert suite.task("wnli").labels == ("not_entailment", "entailment")
    assert suite.task("rte").labels == ("entailment", "not_entailment")
    assert suite.task("mnli").labels == ("entailment", "neutral", "contradiction")
    assert suite.task("mnli").splits.reported == ("validation_matched", "validation")


def test_a_suite_file_holds_tasks_or_names_their_files(tmp_path: Path) -> None:
    _write(tmp_path / "one.yaml", sentiment_fields())
    file = _write(
        tmp_path / "own.yaml",
        {"name": "own", "tasks": [{"file": "one.yaml"}, sentiment_fields() | {"name": "two"}]},
    )
    suite = load_suite(file)
    assert [task.name for task in suite.tasks] == ["mood", "two"]
    # relative to the definition, wherever the command is run
    assert suite.tasks[0].source.path == str(tmp_path / "data")
    assert suite.tasks[1].source.path == str(tmp_path / "data")


def _family(**changes: Any) -> dict[str, Any]:
    shared = sentiment_fields() | {"source": {"hub": "x/y", "subset": "$member"}}
    del shared["name"]
    return {
        "members": {"day": ["sun"], "night": ["moon", "star"]},
        "task": shared | {"template": "{{ sentence }} The $member is", "labels": ["$member", "no"]},
    } | changes


def test_a_family_stands_for_a_task_a_member(tmp_path: Path) -> None:
    tasks = [sentiment_fields(), _family()]
    suite = load_suite(_write(tmp_path / "own.yaml", {"name": "own", "tasks": tasks}))
    assert [(task.name, task.group) for task in suite.tasks] == [
        ("mood", None),
        ("sun", "day"),
        ("moon", "night"),
        ("star", "night"),
    ]
    moon = suite.task("moon")
    assert moon.source.subset == "moon"
    assert moon.template == "{{ sentence }} The moon is"
    assert moon.labels == ("moon", "no")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (_family(members=["a"]), "tasks[1].members"),
        (_family(members={}), "tasks[1].members"),
        (_family(tusk={}), "tasks[1].tusk: unknown key. Did you mean 'task'"),
        (_family(task={"name": "x"}), "tasks[1].task: name: set by members"),
        (_family(members={"a": ["mood"]}), "name given twice: mood"),
        (_family(task={"metrics": ["accuracy"]}), "tasks[1] sun.template: missing"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused(
    tmp_path: Path, family: dict[str, Any], message: str
) -> None:
    file = _write(tmp_path / "own.yaml", {"name": "own", "tasks": [sentiment_fields(), family]})
    with pytest.raises(TaskError) as error:
        load_suite(file)
    assert message in error.value.problem


def test_a_task_file_is_a_task(tmp_path: Path) -> None:
    fields = sentiment_fields() | {"splits": {"reported": "test"}}
    task = load_task_file(_write(tmp_path / "mood.yaml", fields))
    assert task.name == "mood"
    assert task.splits.reported == ("test",)


def test_a_path_alone_is_no_task_of_a_suite(tmp_path: Path) -> None:
    file = _write(tmp_path / "own.yaml", {"name": "own", "tasks": ["one.yaml", "two.yaml"]})
    with pytest.raises(TaskError) as error:
        load_suite(file)
    assert (
        "has 2 problems:\n  tasks[0]: should be a section (got 'one.yaml')" in error.value.problem
    )
    assert "{file: TASK.yaml}" in error.value.allowed


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(TaskError, match="Did you mean 'glue'"):
        load_suite("gluee")
    with pytest.raises(TaskError, match="Did you mean 'sst2'"):
        load_suite("glue").task("sst-2")


def test_all_problems_come_at_once_each_with_its_task_and_key(tmp_path: Path) -> None:
    bad = sentiment_fields() | {"type": "clasification", "lables": ["a"], "metrics": []}
    del bad["template"]
    worse = sentiment_fields() | {"name": "two", "source": {"path": "x", "hub": "y"}}
    file = _write(tmp_path / "own.yaml", {"name": "own", "tasks": [bad, worse], "verion": 2})
    with pytest.raises(TaskError) as error:
        load_suite(file)
    text = error.value.problem
    assert str(file) in text
    for part in (
        "tasks[0] mood.type: 'clasification' is not one of",
        "Did you mean 'classification'",
        "tasks[0] mood.lables: unknown key. Did you mean 'labels'",
        "tasks[0] mood.template: missing. Jinja2 template of the prompt",
        "tasks[0] mood.metrics",
        "tasks[1] two.source: give exactly one of hub, path, generated",
        "verion: unknown key. Did you mean 'version'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["only"]}, "two or more"),
        ({"labels": ["a", "a"]}, "given twice"),
        ({"labels": [False, True]}, "put it in quotes"),
        ({"label_words": ["a", "b", "c"]}, "3 given for 2 labels"),
        ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
        ({"metrics": ["pearson"]}, "'pearson' can't score classification"),
        ({"labels": ["a", "b", "c"], "metrics": ["f1"]}, "use macro_f1"),
        ({"type": "pair-classification"}, "exactly two"),
        ({"type": "regression", "labels": [], "metrics": ["pearson"]}, "scale: a regression"),
        ({"type": "multiple-choice", "labels": []}, "columns.choices: a multiple choice"),
        ({"columns": {"inputs": ["a"], "label": "a"}}, "is an input too"),
        ({"columns": {"inputs": ["a", "b", "c"], "label": "l"}}, "one or two templates"),
        ({"scale": {"low": 0, "high": 1, "step": 0.3}}, "must divide"),
        ({"scale": {"low": 1, "high": 1, "step": 1}}, "must be below"),
        ({"template": "{{ sentnce }}"}, "Did you mean 'sentence'"),
        ({"name": "Mood !"}, "name"),
        ({"metrics": ["accuracy", "em"]}, "set columns.group"),
        ({"metrics": ["em"]}, "'em' can't come first"),
        ({"labels": ["a", "b", "c"], "metrics": ["f1a"]}, "use macro_f1"),
        ({"option": "{{ option }}"}, "option: a classification task has none"),
        (
            {"columns": {"inputs": ["sentence"], "label": "label", "keys": ["a", "b"]}},
            "columns.keys: a classification task has none",
        ),
        (CHOICE | {"metrics": ["accuracy", "span_f1"]}, "of options (accuracy) or of their texts"),
        (CHOICE | {"metrics": ["span_f1"], "option": "{{ option }}"}, "original texts"),
        (CHOICE | {"option": "{{ label }}"}, "shows the label column"),
        (CHOICE | {"option": "{{ options }}"}, "Did you mean 'option'"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError) as error:
        load_task_file(_write(tmp_path / "mood.yaml", sentiment_fields() | changes))
    assert message in error.value.problem


_SETTINGS: dict[str, tuple[Any, str]] = {
    "labels": (["a", "b"], "classification pair-classification"),
    "label_words": (["a", "b"], "classification pair-classification"),
    "scale": ({"low": 0, "high": 1, "step": 1}, "regression"),
    "option": ("({{ option }})", "multiple-choice"),
    "target": ("{{ label }}", "generation"),
    "stop": (["\n"], "generation"),
    "max_new_tokens": (5, "generation"),
    "normalisation": ("none", "classification pair-classification multiple-choice"),
    "segments": (["x"], "classification pair-classification regression multiple-choice"),
    "weights": ("balanced", "classification pair-classification"),
    "columns.choices": ("listed", "multiple-choice generation"),
    "columns.keys": (["a", "b"], "multiple-choice generation"),
}
_MAKERS = (examples.sentiment, examples.pair, examples.score, examples.choice, examples.generation)


@pytest.mark.parametrize("make", _MAKERS)
def test_settings_of_other_types_of_task_are_refused_all_at_once(make: Callable[..., Task]) -> None:
    task = make()
    fields = task.model_dump(mode="json", exclude_defaults=True)
    foreign = {n: v for n, (v, types) in _SETTINGS.items() if task.type not in types.split()}
    columns = {n.removeprefix("columns."): v for n, v in foreign.items() if "." in n}
    given = {n: v for n, v in foreign.items() if "." not in n}
    with pytest.raises(ValidationError) as caught:
        Task.model_validate(fields | given | {"columns": fields["columns"] | columns})
    said = str(caught.value)
    for name in foreign:
        assert f"{name}: a {task.type} task " in said
    for name in _SETTINGS.keys() - foreign.keys():
        assert f"{name}: a " not in said


def test_a_generation_may_have_many_inputs() -> None:
    columns = {"inputs": ["a", "b", "c"], "label": "target"}
    assert examples.generation(columns=columns, template="{{ a }}").segments is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "key 'name' is given twice (line 2"),
        ("name: [a\n", "not valid YAML"),
        ("- a\n", "holds list, not a mapping"),
        ("", "not a mapping"),
        ("name: !!python/object/apply:os.system ['echo']\n", "not valid YAML"),
    ],
)
def test_a_bad_yaml_file_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = _write(tmp_path / "mood.yaml", text)
    with pytest.raises(TaskError) as error:
        load_task_file(file)
    assert message in error.value.problem
    assert str(file) in error.value.problem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.yaml"):
        load_suite(tmp_path / "none.yaml")


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    tasks = [sentiment_fields(), sentiment_fields()]
    with pytest.raises(TaskError, match="name given twice: mood"):
        load_suite(_write(tmp_path / "own.yaml", {"name": "own", "tasks": tasks}))
