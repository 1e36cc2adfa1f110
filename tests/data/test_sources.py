from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from peml.data import files, sources
from peml.data.folders import TaskMissingError
from peml.data.inspection import check_rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_all, load_source, load_task_data
from peml.errors import DataError
from peml.tasks import SOURCE_ROW, Task
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _folder(tmp_path: Path, name: str = "mood", rows: list[dict[str, Any]] | None = None) -> Path:
    for split in ("train", "validation"):
        write_jsonl(tmp_path / name / f"{split}.jsonl", moods(10) if rows is None else rows)
    return tmp_path / name


def _load(task: Task, source: Path, **settings: Any) -> sources.TaskData:
    return load_task_data(task, TasksSettings(suite="x", source=str(source), **settings), 0)


def test_rows_have_the_needed_columns_and_their_numbers(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    train, reported, origin = load_source(examples.sentiment(), str(tmp_path))
    assert set(train.table.column_names) == {"sentence", "label", SOURCE_ROW}
    assert train.column("sentence") == [f"text {n}" for n in range(10)]
    assert reported.column(SOURCE_ROW) == list(range(10))
    assert str(origin) == str(folder)


def test_two_files_of_a_split_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _as_csv(folder, "validation")
    with pytest.raises(DataError, match=r"validation 2 times: validation.jsonl, validation.csv"):
        load_source(examples.sentiment(), str(tmp_path))


def test_a_hub_data_set_is_no_folder_of_this_machine(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    with pytest.raises(DataError, match=r"on this machine(.|\n)*source.path"):
        load_source(examples.sentiment(source={"hub": str(folder)}))


def _as_csv(folder: Path, name: str) -> None:
    Dataset.from_json(str(folder / f"{name}.jsonl")).to_csv(folder / f"{name}.csv")


def _as_parquet(folder: Path, name: str) -> None:
    Dataset.from_json(str(folder / f"{name}.jsonl")).to_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize("convert", [_as_csv, _as_parquet])
def test_csv_and_parquet_hold_the_same_rows(
    tmp_path: Path, convert: Callable[[Path, str], None]
) -> None:
    folder = _folder(tmp_path)
    wanted = list(load_source(examples.sentiment(), str(tmp_path))[0])
    for name in ("train", "validation"):
        convert(folder, name)
        (folder / f"{name}.jsonl").unlink()
    train = load_source(examples.sentiment(), str(tmp_path))[0]
    assert list(train) == wanted


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_of_any_size_but_a_small_one_is_mapped(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path, rows=moods(5000))
    assert (folder / "train.jsonl").stat().st_size > 2**16
    convert = {"csv": _as_csv, "parquet": _as_parquet}.get(suffix)
    if convert is not None:
        for name in ("train", "validation"):
            convert(folder, name)
            (folder / f"{name}.jsonl").unlink()
    large = load_source(examples.sentiment(), str(tmp_path))[0]
    assert large.is_mapped
    assert large.column("sentence") == [row["sentence"] for row in moods(5000)]
    assert large.column(SOURCE_ROW) == list(range(5000))
    monkeypatch.setattr(files, "_SMALL", 2**30)
    held = load_source(examples.sentiment(), str(tmp_path))[0]
    assert held.is_mapped is (suffix == "parquet")
    assert list(held) == list(large)
    assert held.key == large.key


def test_texts_are_not_guessed_to_be_something_else(tmp_path: Path) -> None:
    rows = [{"text": text, "target": text} for text in ("2021-03-03", "NA", "null", "12", " ")]
    folder = _folder(tmp_path, "rewrite", rows)
    assert [row["target"] for row in load_source(examples.generation(), str(tmp_path))[0]] == [
        "2021-03-03",
        "NA",
        "null",
        "12",
        " ",
    ]
    lines = "text,target\n" + "".join(f'{row["text"]},"{row["target"]}"\n' for row in rows)
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").unlink()
        (folder / f"{name}.csv").write_text(lines)
    train = load_source(examples.generation(), str(tmp_path))[0]
    assert train.column("text") == ["2021-03-03", "NA", "null", "12", " "]


def test_labels_may_be_names_numbers_or_scores(tmp_path: Path) -> None:
    _folder(tmp_path, "mood", [{"sentence": "x", "label": "good"}])
    _folder(tmp_path, "closeness", [{"first": "a", "second": "b", "score": s} for s in (1, 2.5)])
    assert load_source(examples.sentiment(), str(tmp_path))[0].column("label") == ["good"]
    assert load_source(examples.score(), str(tmp_path))[0].column("score") == [1.0, 2.5]


def test_a_choice_of_lists_is_read(tmp_path: Path) -> None:
    rows = [{"start": "a", "options": ["b", "c"], "answer": 1}]
    _folder(tmp_path, "ending", rows)
    train = load_source(examples.choice(), str(tmp_path))[0]
    assert train[0]["options"] == ["b", "c"]
    assert check_rows(examples.choice(), train).labels == [1]


def test_nested_and_further_fields_are_read_and_of_one_kind(tmp_path: Path) -> None:
    columns = {
        "inputs": ["sentence"],
        "extra": ["place", "share", "tags"],
        "group": ["idx.text"],
        "label": "label",
    }
    task = examples.sentiment(columns=columns)
    row = {"sentence": "2", "place": 3, "share": 0.5, "tags": ["1"], "idx": {"text": 9, "no": 1}}
    _folder(tmp_path, "mood", [{**row, "label": 0}])
    train = load_source(task, str(tmp_path))[0]
    wanted = {"sentence": "2", "place": 3, "share": 0.5, "tags": ["1"], "idx.text": 9}
    wanted["label"] = "bad"
    assert train[0] == {**wanted, SOURCE_ROW: 0}
    _folder(tmp_path, "mood", [{**row, "label": 0}, {**row, "place": "3", "label": 0}])
    with pytest.raises(
        DataError, match="line 2, field 'place': '3' is a text, and line 1 holds a number"
    ):
        load_source(task, str(tmp_path))
    _folder(tmp_path, "mood", [{**row, "place": {}, "label": 0}, {**row, "label": 0}])
    assert load_source(task, str(tmp_path))[0].column("place") == [None, 3]


@pytest.mark.parametrize("parquet", [False, True])
def test_a_field_may_have_another_name_in_a_copy(tmp_path: Path, parquet: bool) -> None:
    aliases = {"sentence": "text.full", "label": "mood"}
    task = examples.sentiment(
        columns={"inputs": ["sentence"], "label": "label", "aliases": aliases}
    )
    folder = _folder(tmp_path, "mood", [{"text": {"full": "a"}, "mood": 1}])
    for name in ("train", "validation") if parquet else ():
        _as_parquet(folder, name)
        (folder / f"{name}.jsonl").unlink()
    train = load_source(task, str(tmp_path))[0]
    assert list(train) == [{"sentence": "a", "label": "good", SOURCE_ROW: 0}]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_field_and_its_other_name_are_not_two_things(tmp_path: Path, form: str) -> None:
    aliases = {"sentence": "text", "label": "mood"}
    columns = {"inputs": ["sentence"], "label": "label", "aliases": aliases}
    row = {"sentence": "a", "text": "", "label": "good", "mood": "good"}
    for number, (changes, message) in enumerate(
        [
            ({}, ""),
            ({"text": "b"}, "field 'sentence': it is 'a', and 'text', its other name .*, is 'b'"),
            ({"mood": "bad"}, "field 'label': it is 'good', and 'mood', its other name"),
        ]
    ):
        folder = _folder(tmp_path / str(number), "mood", [row, row | changes])
        for split in ("train", "validation"):
            if form != "jsonl":
                _as_parquet(folder, split) if form == "parquet" else _as_csv(folder, split)
                (folder / f"{split}.jsonl").unlink()
        task = examples.sentiment(columns=columns, source={"path": str(folder)})
        if not message:
            assert load_source(task)[0][1] == {"sentence": "a", "label": "good", SOURCE_ROW: 1}
            continue
        with pytest.raises(DataError, match=message):
            load_source(task)


def test_a_folder_may_have_another_name_than_the_task(tmp_path: Path) -> None:
    source = {"hub": "x/y", "folder": "feelings"}
    _folder(tmp_path, "feelings")
    task = examples.sentiment(source=source)
    assert load_source(task, str(tmp_path))[2].name == str(tmp_path / "feelings")
    _folder(tmp_path, "mood")
    assert load_source(task, str(tmp_path))[2].name == str(tmp_path / "mood")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    load_source(examples.sentiment(), str(tmp_path))
    write_jsonl(folder / "train.jsonl", moods(3))
    assert len(load_source(examples.sentiment(), str(tmp_path))[0]) == 3


def test_the_tasks_own_path_is_its_folder_or_the_one_above(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for path in (tmp_path, folder):
        task = examples.sentiment(source={"path": str(path)})
        assert load_source(task)[2].name == str(folder)


def test_of_several_reported_splits_the_first_that_is_there_is_taken(tmp_path: Path) -> None:
    _folder(tmp_path)
    task = examples.sentiment(splits={"reported": ["validation_matched", "validation"]})
    assert len(load_source(task, str(tmp_path))[1]) == 10
    write_jsonl(tmp_path / "mood" / "validation_matched.jsonl", moods(4))
    assert len(load_source(task, str(tmp_path))[1]) == 4


def test_a_missing_task_is_refused_or_skipped_and_named(tmp_path: Path) -> None:
    _folder(tmp_path, "moood")
    tasks = (examples.sentiment(name="moood"), examples.sentiment())
    refuse = TasksSettings(suite="x", source=str(tmp_path))
    with pytest.raises(TaskMissingError, match="Did you mean 'moood'"):
        load_all(tasks, refuse, 0)
    loaded = load_all(tasks, refuse.model_copy(update={"missing": "skip"}), 0)
    assert [item.task.name for item in loaded.data] == ["moood"]
    assert [item.name for item in loaded.skipped] == ["mood"]
    assert str(tmp_path / "mood") in loaded.skipped[0].reason


def test_when_every_task_is_missing_nothing_is_skipped(tmp_path: Path) -> None:
    settings = TasksSettings(suite="x", source=str(tmp_path / "none"), missing="skip")
    with pytest.raises(TaskMissingError, match="No task has data"):
        load_all([examples.sentiment()], settings, 0)


def test_a_broken_task_is_never_skipped(tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / "mood" / "validation.jsonl").unlink()
    settings = TasksSettings(suite="x", source=str(tmp_path), missing="skip")
    with pytest.raises(DataError, match="no file for the split validation") as error:
        load_all([examples.sentiment()], settings, 0)
    assert not isinstance(error.value, TaskMissingError)
    assert "train.jsonl" in error.value.allowed


_BAD_FILES = [
    ("jsonl", '{"sentence": "a", "label": 0}\n\n{"sentence": "b"\n', "line 3 is not valid JSON"),
    ("jsonl", '{"sentence": "a", "label": 0}\n[1]\n', "line 2 holds a list"),
    ("jsonl", b'{"sentence": "\xff", "label": 0}\n', "line 1 is not UTF-8"),
    ("jsonl", '{"sentence": "a", "label": 0}\n{"sentence": 3, "label": 0}\n', "'sentence': 3"),
    (
        "jsonl",
        '{"sentence": "a", "label": 0}\n{"label": 0}\n',
        "line 2, field 'sentence': the row has none",
    ),
    ("jsonl", '{"sentence": "a", "label": 0}\n{"sentence": "b", "label": null}\n', "line 2"),
    ("jsonl", '{"sentence": "a", "label": 0}\n{"sentence": "b", "label": "good"}\n', "line 2"),
    ("jsonl", '{"sentence": "a", "label": 0.5}\n', "'label': 0.5"),
    ("jsonl", '{"sentense": "a", "label": 0}\n', "'sentence'. Did you mean 'sentense'"),
    ("jsonl", "", "no rows"),
    ("jsonl", "\n\n", "no rows"),
    ("csv", "sentence,label\n", "no rows"),
    ("csv", "sentence;label\na, b;0\n", "line 1 is not valid CSV: its fields are separated by ';'"),
    ("csv", "sentence\tlabel\na\t0\n", "its fields are separated by '\\t'"),
    ("csv", "sentence,label\na,0\nb\n", "line 3 is not valid CSV"),
    ("csv", "sentence,label\na,0\nb,1,2\n", "line 3 is not valid CSV"),
    ("csv", "sentence,label\na,0\nb,x\n", "line 3, field 'label': 'x'"),
    ("csv", "sentense,label\na,0\n", "Did you mean 'sentense'"),
    ("parquet", b"PAR1 not at all", "can't be read"),
]


@pytest.mark.parametrize(("suffix", "content", "message"), _BAD_FILES)
def test_a_bad_file_is_named_with_line_and_field(
    tmp_path: Path, suffix: str, content: str | bytes, message: str
) -> None:
    folder = _folder(tmp_path)
    (folder / "train.jsonl").unlink()
    file = folder / f"train.{suffix}"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        _load(examples.sentiment(), tmp_path)
    assert message in error.value.problem
    assert str(file) in error.value.problem
    assert error.value.action


@pytest.mark.parametrize("name", ["train", "validation"])
def test_an_empty_split_is_refused_whatever_the_task(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a", "target": "b", "first": "a", "second": "b", "score": 1}] * 3
    for task in (examples.generation(), examples.score()):
        _folder(tmp_path, task.name, rows)
        write_jsonl(tmp_path / task.name / f"{name}.jsonl", [])
        with pytest.raises(DataError, match=rf"{name}\.jsonl has no rows"):
            _load(task, tmp_path)


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    _folder(tmp_path, rows=[{"sentence": "a \ud800", "label": 0}])
    with pytest.raises(DataError, match=r"train\.jsonl"):
        _load(examples.sentiment(), tmp_path)


def test_parquet_without_a_column_names_the_nearest(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "train.jsonl").unlink()
    Dataset.from_list([{"sentense": "a", "label": 0}]).to_parquet(folder / "train.parquet")
    with pytest.raises(DataError, match=r"'sentence'.*Did you mean 'sentense'"):
        _load(examples.sentiment(), tmp_path)


def test_all_values_that_are_no_labels_are_named_at_once(tmp_path: Path) -> None:
    rows = moods(40)
    for number, wrong in ((3, "happy"), (9, 7), (12, "happy"), (20, "Good mood")):
        rows[number]["label"] = wrong
    _folder(tmp_path, rows=rows)
    with pytest.raises(DataError) as caught:
        _load(examples.sentiment(), tmp_path)
    assert "train.jsonl, line 4, field 'label': 'happy' is not a label" in caught.value.problem
    assert "; nor are 7 (line 10), 'Good mood' (line 21)." in caught.value.problem
    for number, row in enumerate(rows):
        row["label"] = f"text {number}"  # as of another column: ten are enough
    _folder(tmp_path, rows=rows)
    with pytest.raises(DataError, match=r"line 1, .*'text 9' \(line 10\)\.\n"):
        _load(examples.sentiment(), tmp_path)


def test_a_bad_row_is_named_by_its_place_in_the_file_after_carving(tmp_path: Path) -> None:
    rows = moods(40)
    rows[33]["label"] = 7
    _folder(tmp_path, rows=rows)
    with pytest.raises(DataError, match=r"train.jsonl, line 34, field 'label': 7 is not a label"):
        _load(examples.sentiment(), tmp_path)
    for number, row in enumerate(rows):
        row["label"] = number % 2
        row["sentence"] = f"{number},b" if number != 33 else "no comma"
    _folder(tmp_path, rows=rows)
    task = examples.sentiment(template="{{ sentence.split(',')[1] }}")
    data = _load(task, tmp_path)
    bad = data.train if 33 in data.train.column(SOURCE_ROW) else data.development
    with pytest.raises(DataError, match="the file: Task 'mood', row 33 "):
        check_rows(task, bad, "the file")
