"""What the rows of a task tell about its columns: kinds of extra fields, labels counted from 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peml.data.inspection import check_rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_source, load_task_data, with_kinds
from peml.data.task_columns import read_list
from peml.errors import DataError
from peml.tasks import Task
from tests.data.rows import Row, write_jsonl
from tests.tasks import examples


def _task(**columns: Any) -> Task:
    named = {"inputs": ["sentence"], "extra": ["code", "size", "note"], "label": "label"}
    return examples.sentiment(columns=named | columns, template="{{ code }} {{ sentence }}")


def _rows(**changes: Any) -> list[Row]:
    row = {"sentence": "a", "code": "0001", "size": 2, "note": None}
    return [row | {"label": label} | changes for label in ("bad", "good") * 5]


def _write(folder: Path, name: str, train: list[Row], validation: list[Row]) -> str:
    write_jsonl(folder / name / "train.jsonl", train)
    write_jsonl(folder / name / "validation.jsonl", validation)
    return str(folder)


def test_a_model_is_asked_with_the_kinds_it_was_trained_on(tmp_path: Path) -> None:
    source = _write(tmp_path, "mood", _rows(), _rows(size=2.5))
    data = load_task_data(_task(), TasksSettings(suite="x", source=source), 0)
    task = with_kinds(data)
    assert task.columns.kinds == {"code": "text", "size": "number"}
    assert data.task.columns.kinds == {}
    row = {"sentence": "a", "code": "0001", "size": 3, "note": None}
    assert read_list([row], task) == [row]
    with pytest.raises(DataError, match=r"field 'code': 1 is not a text"):
        read_list([row | {"code": 1}], task)


def test_a_number_for_a_field_that_is_declared_a_text_is_refused(tmp_path: Path) -> None:
    source = _write(tmp_path, "mood", _rows(code=1), _rows())
    with pytest.raises(DataError, match=r"train.jsonl, line 1, field 'code': 1 is not a text"):
        load_source(_task(kinds={"code": "text"}), source)


@pytest.mark.parametrize(("code", "kind"), [(1, "number"), (["a", "b"], "list")])
def test_splits_with_fields_of_other_kinds_are_refused(
    tmp_path: Path, code: Any, kind: str
) -> None:
    source = _write(tmp_path, "mood", _rows(), _rows(code=code))
    with pytest.raises(DataError, match=rf"'code' is a {kind} in .*validation.jsonl, and a text"):
        load_source(_task(), source)


def test_a_model_trained_with_lists_is_asked_with_lists(tmp_path: Path) -> None:
    """A template that joins a list would join the letters of a text."""
    rows = _rows(code=["a", "b"])
    source = _write(tmp_path, "mood", rows, rows)
    task = with_kinds(load_task_data(_task(), TasksSettings(suite="x", source=source), 0))
    assert task.columns.kinds["code"] == "list"
    assert read_list(rows[:1], task)[0]["code"] == ["a", "b"]
    for code in ("a, b", '["a"]', 3):
        with pytest.raises(DataError, match=r"field 'code': .* is not a list of texts"):
            read_list([rows[0] | {"code": code}], task)
    with pytest.raises(ValidationError, match=r"'label' can be a list only in columns.extra"):
        _task(kinds={"label": "list"})


def _choices(labels: list[Any]) -> list[Row]:
    return [{"start": "Go", "options": ["x", "y", "z"], "answer": label} for label in labels]


def test_indices_that_seem_to_be_counted_from_one_are_refused(tmp_path: Path) -> None:
    shifted = _write(tmp_path / "shifted", "ending", _choices([1, 2] * 10), _choices([1] * 5))
    with pytest.raises(DataError, match="the label of none of 25 rows is 0") as caught:
        load_source(examples.choice(), shifted)
    assert "columns.keys" in caught.value.action
    assert "columns.kinds: {answer: number}" in caught.value.action
    columns = {"inputs": ["start"], "choices": "options", "label": "answer"}
    told = examples.choice(columns=columns | {"kinds": {"answer": "number"}})
    assert len(load_source(told, shifted)[0]) == 20
    fine: list[list[Any]] = [[1, 2] * 10 + [0], [1, 2], ["y", "z"] * 10]
    for number, labels in enumerate(fine):
        source = _write(tmp_path / str(number), "ending", _choices(labels), _choices(labels[:2]))
        assert len(load_source(examples.choice(), source)[0]) == len(labels)


def test_a_label_behind_the_last_option_says_how_to_count_from_one(tmp_path: Path) -> None:
    source = _write(tmp_path, "ending", _choices([3]), _choices([1]))
    task = examples.choice()
    with pytest.raises(DataError, match=r"counted from 1 need columns\.keys"):
        check_rows(task, load_source(task, source)[0])


def test_a_letter_that_is_no_option_says_how_letters_are_named(tmp_path: Path) -> None:
    source = _write(tmp_path, "ending", _choices(["B"]), _choices(["A"]))
    task = examples.choice()
    with pytest.raises(DataError, match=r"letters need columns\.keys, such as \[A, B, C\]"):
        check_rows(task, load_source(task, source)[0])


_TEXTS = [
    {"start": "Go", "options": ["10", "20", "1"], "answer": "1"},
    {"start": "Go", "options": ["2", "5", "6"], "answer": "2"},
]
_INDICES = [{"start": "Go", "options": ["10", "20", "30"], "answer": "1"}]


@pytest.mark.parametrize("kind", [str, int, float])
def test_digits_are_texts_of_options_or_indices_in_all_rows_of_all_splits(
    tmp_path: Path, kind: Callable[[Any], Any]
) -> None:
    task = examples.choice()
    for number, rows in enumerate((_TEXTS, _INDICES)):
        load_source(task, _write(tmp_path / str(number), "ending", rows, rows))
    texts = [_TEXTS[1] | {"answer": kind(5)}]  # no index: there are three options
    indices = [_INDICES[0] | {"answer": kind(1)}]
    for number, (train, reported) in enumerate([(texts, indices), (texts + indices, indices)]):
        source = _write(tmp_path / f"mixed-{number}", "ending", train, reported)
        with pytest.raises(
            DataError, match=r"is ambiguous: .*only the text.*only an index"
        ) as found:
            load_source(task, source)
        assert "columns.kinds: {answer: text}" in found.value.action


@pytest.mark.parametrize(
    ("train", "reported", "message"),
    [
        (["3", "-14"], ["3.0", "5.0"], r"as 3 in .*train.jsonl, and as 3\.0 in .*validation.jsonl"),
        ([3, 2.5], ["3.0", "2.5"], r"as 3 in .*train.jsonl, and as 3\.0 in"),
        (["3.0", "1.0"], [3.0, 2.0], r"as 3 in .*validation.jsonl, and as 3\.0 in .*train.jsonl"),
        (["3", "4.0"], ["3.0"], ""),
        (["3", "yes"], ["3.0", "no"], ""),
        (["2.5", "3"], [2.5, 3], ""),
        (["3.0"], ["3.0", "2.5"], ""),
    ],
)
def test_targets_are_written_in_one_way_in_all_splits(
    tmp_path: Path, train: list[Any], reported: list[Any], message: str
) -> None:
    rows = [[{"text": "a", "target": label} for label in labels] for labels in (train, reported)]
    source = _write(tmp_path, "rewrite", *rows)
    if not message:
        load_source(examples.generation(), source)
        return
    with pytest.raises(DataError, match=message):
        load_source(examples.generation(), source)


def test_a_list_of_targets_is_no_text_of_another_split(tmp_path: Path) -> None:
    rows = [[{"text": "a", "target": label}] for label in (["x", "y"], "x, y")]
    task = examples.generation(target="{{ label | join(', ') }}")
    with pytest.raises(DataError, match=r"as a list in .*train.jsonl, and as a text in"):
        load_source(task, _write(tmp_path, "rewrite", *rows))


def test_shots_of_another_split_are_read_as_the_scored_rows_are(tmp_path: Path) -> None:
    task = examples.choice(shots={"count": 1, "split": "dev"}, splits={"train": None})
    source = _write(tmp_path, "ending", _INDICES, _INDICES)
    write_jsonl(tmp_path / "ending" / "dev.jsonl", _INDICES * 2)
    load_source(task, source)
    write_jsonl(tmp_path / "ending" / "dev.jsonl", _TEXTS)
    with pytest.raises(DataError, match=r"only the text of an option, .*validation.jsonl, row 0"):
        load_source(task, source)
