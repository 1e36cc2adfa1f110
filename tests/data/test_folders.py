"""Where a task's files are looked for: one folder per task, or one folder per suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.data import select_tasks
from peml.data.folders import TaskMissingError, find_folder
from peml.data.settings import TasksSettings
from peml.errors import DataError
from peml.tasks import Task
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples

_PAIR = ("glue", "superglue")


def _task(suites: str | tuple[str, ...], name: str) -> Task:
    return next(t for t in select_tasks(TasksSettings(suite=suites)) if t.name == name)


def _put(folder: Path) -> Path:
    return write_jsonl(folder / "train.jsonl", moods(3)).parent


@pytest.mark.parametrize(
    ("suites", "name", "place"),
    [
        ("glue", "sst2", "sst2"),
        ("glue", "sst2", "glue/sst2"),
        (("glue",), "sst2", "glue/sst2"),
        (_PAIR, "sst2", "sst2"),
        (_PAIR, "sst2", "glue/sst2"),
        (_PAIR, "glue-rte", "glue-rte"),
        (_PAIR, "glue-rte", "glue_rte"),
        (_PAIR, "glue-rte", "glue/rte"),
        (_PAIR, "superglue-rte", "superglue/rte"),
        ("mmlu", "high_school_biology", "high-school-biology"),
        ("mmlu", "high_school_biology", "mmlu/high-school_biology"),
        ("commonsense-instruct", "piqa", "commonsense_instruct/piqa"),
        ("commonsense", "siqa", "social-i-qa"),
        ("commonsense", "siqa", "commonsense/social_i_qa"),
        ("superglue", "copa", "copa/copa"),
    ],
)
def test_either_form_works_and_hyphens_are_as_underscores(
    tmp_path: Path, suites: str | tuple[str, ...], name: str, place: str
) -> None:
    task = _task(suites, name)
    if place == "copa/copa":
        task = task.model_copy(update={"source": task.source.model_copy(update={"suite": "copa"})})
    folder = _put(tmp_path / place)
    assert find_folder(task, str(tmp_path)) == folder


@pytest.mark.parametrize("places", [("sst2", "glue/sst2"), ("sst-2", "sst_2")])
def test_a_task_in_two_folders_is_refused(tmp_path: Path, places: tuple[str, str]) -> None:
    task = _task("glue", "sst2").model_copy(update={"name": places[0]})
    folders = [_put(tmp_path / place) for place in places]
    with pytest.raises(DataError, match="is in 2 folders") as caught:
        find_folder(task, str(tmp_path))
    assert not isinstance(caught.value, TaskMissingError)
    assert all(str(folder) in caught.value.problem for folder in folders)


def test_a_link_to_the_same_folder_is_no_second_one(tmp_path: Path) -> None:
    folder = _put(tmp_path / "glue" / "sst2")
    (tmp_path / "sst2").symlink_to(folder)
    assert find_folder(_task("glue", "sst2"), str(tmp_path)) == tmp_path / "sst2"


def test_an_empty_folder_does_not_hide_the_files(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    folder = _put(tmp_path / "glue" / "sst2")
    assert find_folder(_task("glue", "sst2"), str(tmp_path)) == folder


def test_another_suites_task_of_the_same_name_is_not_taken(tmp_path: Path) -> None:
    _put(tmp_path / "rte")
    _put(tmp_path / "superglue" / "rte")
    with pytest.raises(TaskMissingError, match=r"glue-rte' or '.*glue/rte'"):
        find_folder(_task(_PAIR, "glue-rte"), str(tmp_path))


def test_a_tasks_own_path_holds_it_once(tmp_path: Path) -> None:
    task = examples.sentiment(source={"path": str(_put(tmp_path))})
    assert find_folder(task, None) == tmp_path
    _put(tmp_path / "mood")
    with pytest.raises(DataError, match="is in 2 folders"):
        find_folder(task, None)
