"""The same rows give the same examples from every format, in training and in prediction."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peml.data.inspection import check_rows
from peml.data.sources import load_source
from peml.data.task_columns import read_list
from peml.data.unlabelled import UnlabelledFile
from peml.errors import DataError
from peml.tasks import Task, TaskRenderer
from peml.tasks.task import Source
from tests.data.loaded import loaded_examples
from tests.data.rows import Row, write_jsonl
from tests.tasks import examples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _noted(**changes: Any) -> Task:
    columns = {
        "inputs": ["sentence"],
        "extra": ["note", "code", "size", "sure"],
        "kinds": {"size": "number"},
        "label": "label",
    }
    template = (
        "{{ sentence }}{% if note %} ({{ note }}){% endif %} {{ code ~ ' ' ~ size }} {{ sure }}"
        "{{ ' big' if size and size > 2 }}{{ note ~ '!' }}"
    )
    return examples.sentiment(columns=columns, template=template, **changes)


def _rows(labels: list[Any]) -> list[Row]:
    said: list[Row] = [
        {"note": None, "code": "0001", "size": 1, "sure": "yes"},
        {"note": "late", "code": "12", "size": 2, "sure": None},
        {"note": None, "code": "1e3", "size": 3.5, "sure": "NA"},
    ]
    texts = ["a", "", "2"]
    return [
        {"sentence": text, **row, "label": label}
        for text, row, label in zip(texts, said, labels, strict=True)
    ]


def _choices(answers: list[Any]) -> list[Row]:
    return [{"start": "Go", "a": "7", "b": "1", "c": "9", "answer": answer} for answer in answers]


_OPTIONS = ["a", "b", "c"]
_KEYED = {"inputs": ["start"], "choices": _OPTIONS, "keys": ["1", "2", "3"], "label": "answer"}
_INDEXED = {
    "inputs": ["start"],
    "choices": _OPTIONS,
    "label": "answer",
    "kinds": {"answer": "number"},
}
_SPELLED = {"inputs": ["text"], "label": "target", "kinds": {"target": "number"}}

_CASES: dict[str, tuple[Task, list[Row], list[Any]]] = {
    "names": (_noted(), _rows(["good", "bad", "good"]), [1, 0, 1]),
    "indices": (_noted(), _rows([1, 0, 1]), [1, 0, 1]),
    "indices written as floats": (_noted(), _rows([1.0, 0.0, 1.0]), [1, 0, 1]),
    "names written as floats": (_noted(labels=["1", "2", "3"]), _rows([1.0, 2.0, 3.0]), [0, 1, 2]),
    "true and false": (_noted(labels=["no", "yes"]), _rows([True, False, True]), [1, 0, 1]),
    "digits that are names": (
        _noted(labels=["1", "2", "3"]),
        _rows([1, 2, 3]),
        [0, 1, 2],
    ),
    "names and indices alike": (_noted(labels=["0", "1", "2"]), _rows([1, 2, 0]), [1, 2, 0]),
    "digits that are said to be names": (
        examples.sentiment(
            labels=["2", "0", "1"],
            columns={"inputs": ["sentence"], "label": "label", "kinds": {"label": "text"}},
        ),
        _rows([1, 2, 0]),
        [2, 0, 1],
    ),
    "letters apart": (
        _noted(labels=["caf\u00e9", "bar"]),
        _rows(["cafe\u0301", "bar", "caf\u00e9"]),
        [0, 1, 0],
    ),
    "texts of options": (examples.choice(_OPTIONS), _choices(["7", "9", "1"]), [0, 2, 1]),
    "indices of options": (examples.choice(columns=_INDEXED), _choices([1, 2, 0]), [1, 2, 0]),
    "indices of options as floats": (examples.choice(_OPTIONS), _choices([2.0, 0.0]), [2, 0]),
    "keys": (examples.choice(columns=_KEYED), _choices([1, 2, 3]), [0, 1, 2]),
    "keys as texts": (examples.choice(columns=_KEYED), _choices(["1", "2", "3"]), [0, 1, 2]),
    "options that are numbers": (
        examples.choice(_OPTIONS),
        [{"start": "Go", "a": 7, "b": 8.5, "c": 9, "answer": "8.5"}] * 2,
        [1, 1],
    ),
    "a list of numbers": (
        examples.choice(),
        [{"start": "Go", "options": [number, 8.5], "answer": "8.5"} for number in (7, 9.5)],
        [1, 1],
    ),
    "scores": (
        examples.score(),
        [{"first": "a", "second": "b", "score": score} for score in (1, 2, 3.5)],
        [1.0, 2.0, 3.5],
    ),
    "targets": (
        examples.generation(columns=_SPELLED),
        [{"text": "a", "target": target} for target in (1, 2.0, 3.5)],
        ["1", "2", "3.5"],
    ),
}


def _jsonl(path: Path, rows: list[Row]) -> Path:
    return write_jsonl(path.with_suffix(".jsonl"), rows)


def _sparse_jsonl(path: Path, rows: list[Row]) -> Path:
    """What is null is left out."""
    return _jsonl(path, [{k: v for k, v in row.items() if v is not None} for row in rows])


def _csv(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def _parquet(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


_WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "jsonl": _jsonl,
    "sparse jsonl": _sparse_jsonl,
    "csv": _csv,
    "parquet": _parquet,
}


def _write(folder: Path, write: Callable[[Path, list[Row]], Path], rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "validation", rows)
    return write(folder / "train", rows)


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("form", _WRITERS)
def test_the_same_rows_are_the_sameloaded_examples(tmp_path: Path, form: str, case: str) -> None:
    task, rows, labels = _CASES[case]
    if form == "csv" and task.columns.choices == "options":
        pytest.skip("CSV has no lists")
    _write(tmp_path / "plain" / task.name, _jsonl, rows)
    wanted = loaded_examples(task, str(tmp_path / "plain"))
    file = _write(tmp_path / "form" / task.name, _WRITERS[form], rows)
    found = loaded_examples(task, str(tmp_path / "form"))
    assert found == wanted
    assert [example.label for example in found[0]] == labels
    assert [type(example.label) for example in found[0]] == [type(label) for label in labels]
    prompts = [example.prompt for example in found[0]]
    assert not any("None" in prompt for prompt in prompts)
    given = [{k: v for k, v in row.items() if k != task.columns.label} for row in rows]
    for unlabelled in (next(UnlabelledFile(file, task).windows(99)).rows, read_list(given, task)):
        renderer = TaskRenderer(task)
        said = [renderer.render(row, n, labelled=False) for n, row in enumerate(unlabelled)]
        assert [example.prompt for example in said] == prompts
        assert [example.options for example in said] == [e.options for e in found[0]]


def test_what_a_prompt_of_these_rows_says() -> None:
    task, rows, _ = _CASES["names"]
    prompts = [
        TaskRenderer(task).render(row, number, labelled=False).prompt
        for number, row in enumerate(read_list(rows, task))
    ]
    assert prompts == ["a 0001 1 yes!", " (late) 12 2 late!", "2 1e3 3.5 NA big!"]


@pytest.mark.parametrize("declared", [False, True])
def test_csv_of_the_hub_is_read_as_a_csv_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    task, load = _noted(), datasets.load_dataset
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, revision, **options: load(str(tmp_path / "mood"), **options),
    )
    _write(tmp_path / "mood", _csv, _rows([1, 0, 1]))
    if declared:  # the column's type and names by the data set's card
        card = "---\ndataset_info:\n  features:\n" + "".join(
            f"  - name: {name}\n    dtype: string\n"
            for name in ("sentence", "note", "code", "size", "sure")
        )
        names = "    dtype:\n      class_label:\n        names: {'0': good, '1': bad}\n"
        (tmp_path / "mood" / "README.md").write_text(f"{card}  - name: label\n{names}---\n")
    hub = loaded_examples(task.model_copy(update={"source": Source(hub="x/y")}), None)
    (tmp_path / "mood" / "README.md").unlink(missing_ok=True)
    local = loaded_examples(task, str(tmp_path))
    assert [row.prompt for row in hub[0]] == [row.prompt for row in local[0]]
    assert [row.label for row in hub[0]] == ([0, 1, 0] if declared else [1, 0, 1])


def test_labels_of_a_pandas_category_are_its_texts(tmp_path: Path) -> None:
    labels = pa.array(["good", "bad"]).dictionary_encode()
    table = pa.table({"sentence": ["a", "b"], "label": labels})
    (tmp_path / "mood").mkdir()
    for split in ("train", "validation"):
        pq.write_table(table, tmp_path / "mood" / f"{split}.parquet")
    found = loaded_examples(examples.sentiment(), str(tmp_path))[0]
    assert [example.label for example in found] == [1, 0]


_AMBIGUOUS = "is ambiguous: it is the name of label 1 and the index of label 0 '1'"
_DIGITS = ["1", "0"]

_REFUSED: dict[str, tuple[Task, list[Row], str, str]] = {
    "could be either": (
        examples.sentiment(labels=_DIGITS),
        [{"sentence": "a", "label": label} for label in (0, 1)],
        "label",
        _AMBIGUOUS,
    ),
    "neither all names nor all indices": (
        examples.sentiment(labels=["1", "2"]),
        [{"sentence": "a", "label": label} for label in (1, 2, 0)],
        "label",
        "0' can only be the index|0 can only be the index",
    ),
    "names among indices": (
        examples.sentiment(),
        [{"sentence": "a", "label": label} for label in ("0", "good")],
        "label",
        "can only be the index of a label, and 'good'",
    ),
    "no input": (_noted(), [{**_rows([1, 1, 1])[0], "sentence": None}] * 2, "sentence", "null"),
    "no label": (_noted(), _rows([1, 0, None]), "label", "null|'' is not a label"),
    "no option": (
        examples.choice(_OPTIONS),
        [{**_choices(["7"])[0], "b": None}],
        "b",
        "null|option 1",
    ),
    "a score that is none": (
        examples.score(),
        [{"first": "a", "second": "b", "score": "high"}],
        "score",
        "'high' is not a number",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_these_rows_are_refused_in_every_format(tmp_path: Path, form: str, case: str) -> None:
    task, rows, field, problem = _REFUSED[case]
    if case == "no input" and form == "csv":
        pytest.skip("an empty cell is an empty text")
    file = _write(tmp_path / task.name, _WRITERS[form], rows)
    with pytest.raises(DataError, match=problem) as caught:
        check_rows(task, load_source(task, str(tmp_path))[0], str(file))
    assert str(file) in caught.value.problem
    assert field in caught.value.problem.partition("field ")[2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "1"], "line 2, field 'n': '1' is a text, and line 1 holds a number"),
        ([1.5, True], "line 2, field 'n': True is true or false, and line 1 holds a number"),
        ([1.5, 2, 2**53 + 1], r"line 3, field 'n': the integer is too large .*\(line 1\)"),
    ],
)
def test_a_column_is_of_one_kind(tmp_path: Path, values: list[Any], message: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["n"]}
    rows = [{"sentence": "a", "label": 0, "n": value} for value in values]
    _write(tmp_path / "mood", _jsonl, rows)
    with pytest.raises(DataError, match=message):
        load_source(examples.sentiment(columns=columns), str(tmp_path))


@pytest.mark.parametrize("form", _WRITERS)
def test_a_field_that_no_row_has_is_refused_with_its_neighbour(tmp_path: Path, form: str) -> None:
    rows = [
        {k: v for k, v in row.items() if k != "note"} | {"notes": "x"} for row in _rows([1] * 3)
    ]
    file = _write(tmp_path / "mood", _WRITERS[form], rows)
    for read in (
        lambda: load_source(_noted(), str(tmp_path)),
        lambda: next(UnlabelledFile(file, _noted()).windows(9)),
    ):
        with pytest.raises(DataError, match=r"lacks column 'note'\. Did you mean 'notes'"):
            read()
    with pytest.raises(DataError, match=r"'note'\. Did you mean 'notes'"):
        read_list(rows, _noted())
