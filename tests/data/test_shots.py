"""Shots are the first rows of a split, and are neither trained on nor scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.data.settings import TasksSettings, select_tasks
from peml.data.sources import load_shots, load_source, load_task_data
from peml.errors import ConfigError, DataError, ModelError
from peml.models import check_task_types
from peml.tasks import SOURCE_ROW, Task
from peml.tasks.chat import Shot
from peml.testing.tasks import tiny_family
from tests.data.rows import write_jsonl
from tests.tasks.examples import sentiment


def shown(folder: Path, shots: dict[str, Any], **changes: Any) -> Task:
    for split, count in (("train", 6), ("validation", 4), ("dev", 2)):
        rows = [{"sentence": f"{split} {n}", "label": n % 2} for n in range(count)]
        write_jsonl(folder / "mood" / f"{split}.jsonl", rows)
    return sentiment(source={"path": str(folder)}, shots=shots, **changes)


def numbers(task: Task) -> tuple[list[int], list[int]]:
    train, reported, _ = load_source(task)
    return train.column(SOURCE_ROW)[:], reported.column(SOURCE_ROW)[:]


@pytest.mark.parametrize(
    ("shots", "changes", "train", "reported"),
    [
        ({"count": 2}, {}, [2, 3, 4, 5], [0, 1, 2, 3]),
        ({"count": 2, "split": "dev"}, {}, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3]),
        ({"count": 3, "split": "validation"}, {"splits": {"train": None}}, [], [3]),
        # the split of that name is not the one that is reported
        (
            {"count": 1, "split": "dev"},
            {"splits": {"reported": ["validation", "dev"]}},
            [0, 1, 2, 3, 4, 5],
            [0, 1, 2, 3],
        ),
        ({"count": 6}, {}, [], [0, 1, 2, 3]),
        ({}, {}, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3]),
    ],
)
def test_the_first_rows_of_a_split_are_shown_and_leave_it(
    tmp_path: Path, shots: Any, changes: Any, train: list[int], reported: list[int]
) -> None:
    task = shown(tmp_path, shots, **changes)
    assert numbers(task) == (train, reported)
    split = shots.get("split", "train")
    words = ("bad", "good")
    wanted = [f"{split} {n} It is {words[n % 2]}" for n in range(shots.get("count", 0))]
    assert list(load_shots(task).shots.examples) == wanted


def test_loaded_tasks_have_their_shots_written_out(tmp_path: Path) -> None:
    settings = TasksSettings(suite="demo")
    data = load_task_data(shown(tmp_path, {"count": 2}), settings, 0)
    assert len(data.task.shots.examples) == 2
    carved = (*data.train.column(SOURCE_ROW), *data.development.column(SOURCE_ROW))
    assert sorted(carved) == [2, 3, 4, 5]
    again = Task.model_validate_json(data.task.model_dump_json())  # as an export keeps it
    assert again == data.task
    only = load_task_data(shown(tmp_path, {"count": 6}), settings, 0)
    assert (len(only.train), len(only.development), len(only.reported)) == (0, 0, 4)


@pytest.mark.parametrize(
    ("shots", "changes", "message"),
    [
        ({"count": 3, "split": "dev"}, {}, "3 shots are asked for, and 'dev' has 2 rows"),
        ({"count": 1, "split": "none"}, {}, "no file for the split none"),
        ({"count": 1}, {"splits": {"train": None}}, "no train split to take 1 shots from"),
    ],
)
def test_shots_that_are_not_there_are_refused(
    tmp_path: Path, shots: Any, changes: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_shots(shown(tmp_path, shots, **changes))


def test_all_reported_rows_can_t_be_shots(tmp_path: Path) -> None:
    task = shown(tmp_path, {"count": 4, "split": "validation"})
    with pytest.raises(DataError, match=r"all rows of .*validation.jsonl are shots"):
        load_source(task)


def test_a_config_sets_the_shots_of_any_suite() -> None:
    for suite in ("glue", "mmlu"):
        tasks = select_tasks(TasksSettings(suite=suite, shots=5))
        assert {task.shots.count for task in tasks} == {5}
    assert {task.shots.split for task in tasks} == {"dev"}
    plain = select_tasks(TasksSettings(suite="mmlu"))
    assert {task.shots.count for task in plain} == {0}


def test_of_written_examples_the_first_are_taken(tmp_path: Path) -> None:
    task = sentiment(shots={"examples": ["one", "two"]})
    file = tmp_path / "mood.yaml"
    file.write_text(task.model_dump_json(exclude_defaults=True))  # JSON is YAML

    def chosen(shots: int) -> tuple[str | Shot, ...]:
        (task,) = select_tasks(TasksSettings(files=(str(file),), shots=shots))
        return task.shots.examples

    assert (chosen(0), chosen(1), chosen(2)) == ((), ("one",), ("one", "two"))
    with pytest.raises(ConfigError, match=r"tasks.shots: 3, and fewer .* in mood"):
        chosen(3)


def test_an_encoder_would_not_see_them() -> None:
    with pytest.raises(ModelError, match=r"has no prompts.* shots of mood"):
        check_task_types(tiny_family("bert"), [sentiment(shots={"count": 1})])
    check_task_types(tiny_family("bert"), [sentiment(shots={"count": 0, "split": "dev"})])
    check_task_types(tiny_family("t5"), [sentiment(shots={"count": 1})])


def test_chosen_rows_are_shown_in_their_order(tmp_path: Path) -> None:
    task = shown(tmp_path, {"count": 2, "rows": [5, 0, 3]})
    assert numbers(task)[0] == [1, 2, 3, 4]
    loaded = load_shots(task.model_copy(update={"context": True}))
    assert loaded.shots.examples == ("train 5 It is good", "train 0 It is bad")
    assert loaded.shots.rows == (5, 0)  # a context keeps their numbers
    for shots, message in (
        ({"count": 3, "rows": [1, 2]}, "3 shots are asked for, and 2 rows are chosen"),
        ({"count": 2, "rows": [1, 6]}, "row 6 is chosen to be shown, and 'train' has 6 rows"),
    ):
        with pytest.raises(DataError, match=message):
            load_shots(shown(tmp_path, shots))
