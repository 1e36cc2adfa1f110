"""Integers of a Parquet file or a data set of the hub mean the names that are stored for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peml.data.cards import card_names
from peml.data.sources import load_source
from peml.errors import DataError
from peml.tasks import Task
from peml.tasks.task import Source
from tests.data.loaded import loaded_examples
from tests.data.rows import Row
from tests.tasks import examples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


_STORED = ["pos-itive", "Neg ative"]
"""Of a source that orders the labels otherwise than the task, and spells them otherwise."""


def _with_names(rows: list[Row], names: list[str]) -> Dataset:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_list(rows, features=features)


def _feel() -> Task:
    return examples.sentiment(labels=["neg_ative", "pos_itive"])


def _hub(monkeypatch: pytest.MonkeyPatch, data: Dataset, task: Task) -> Task:
    splits = DatasetDict({"train": data, "validation": data})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    return task.model_copy(update={"source": Source(hub="x/y")})


def _to_parquet(folder: Path, data: Dataset, task: Task) -> str:
    (folder / task.name).mkdir(parents=True)
    for split in ("train", "validation"):
        data.to_parquet(folder / task.name / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("source", ["parquet", "hub"])
def test_integers_mean_the_names_that_are_stored_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    rows = [{"sentence": text, "label": label} for text, label in (("a", 0), ("b", 1))]
    for names, labels in ((_STORED, [1, 0]), (["1", "0"], [1, 0])):
        data = _with_names(rows, names)
        if source == "hub":
            found = loaded_examples(_hub(monkeypatch, data, _feel()), None)
        else:
            found = loaded_examples(_feel(), _to_parquet(tmp_path / names[0], data, _feel()))
        assert [[example.label for example in split] for split in found] == [labels] * 2


def test_names_that_are_no_labels_are_refused_and_both_orders_shown(tmp_path: Path) -> None:
    rows: list[Row] = [{"sentence": "a", "label": 1}]
    folder = _to_parquet(tmp_path, _with_names(rows, ["poor", "fine"]), examples.sentiment())
    with pytest.raises(DataError) as caught:
        load_source(examples.sentiment(), folder)
    said = (
        "train.parquet, row 0 (from 0), field 'label': 1 is stored as 'fine', which is no label of "
        "the task; stored are 0 'poor', 1 'fine', the task's labels are 0 'bad', 1 'good'"
    )
    assert said in caught.value.problem
    columns = {"inputs": ["sentence"], "label": "label", "kinds": {"label": "number"}}
    task = examples.sentiment(columns=columns)
    assert load_source(task, folder)[0].column("label") == ["good"]


def test_a_row_without_a_label_is_said_to_be_one(tmp_path: Path) -> None:
    data = _with_names([{"sentence": "a", "label": -1}], ["bad", "good"])
    folder = _to_parquet(tmp_path, data, examples.sentiment())
    with pytest.raises(DataError, match=r"row 0 .*-1 is none of the 2.*rows without a label"):
        load_source(examples.sentiment(), folder)


@pytest.mark.parametrize(
    ("names", "columns", "labels"),
    [
        (["A", "B"], {}, [1, 0]),
        (["0", "1"], {}, [1, 0]),
        (["q", "p"], {}, [0, 1]),  # the fields of the options
        (["B", "A"], {"keys": ["A", "B"]}, [0, 1]),
        (["B", "A"], {"kinds": {"answer": "number"}}, [1, 0]),
    ],
)
def test_stored_names_may_be_those_of_options(
    tmp_path: Path, names: list[str], columns: Any, labels: list[int]
) -> None:
    task = examples.choice(
        columns={"inputs": ["start"], "choices": ["p", "q"], "label": "answer", **columns}
    )
    folder = _choices_to_parquet(tmp_path, names, task)
    assert [example.label for example in loaded_examples(task, folder)[0]] == labels


def test_stored_names_in_an_order_that_no_option_has_are_refused(tmp_path: Path) -> None:
    task = examples.choice(["p", "q"])
    folder = _choices_to_parquet(tmp_path, ["second", "first"], task)
    with pytest.raises(DataError, match=r"stored as 'first', and the order.*second, first"):
        load_source(task, folder)


def _choices_to_parquet(folder: Path, names: list[str], task: Task) -> str:
    texts = {name: Value("string") for name in ("start", "p", "q")}
    rows = [{"start": "a", "p": "x", "q": "y", "answer": number} for number in (1, 0)]
    features = Features({**texts, "answer": ClassLabel(names=names)})
    return _to_parquet(folder, Dataset.from_list(rows, features=features), task)


@pytest.mark.parametrize("same_order", [False, True])
def test_integers_that_are_names_in_one_split_and_indices_in_the_other_are_refused(
    tmp_path: Path, *, same_order: bool
) -> None:
    """As where one of two files was written again by a library that stores no names."""
    task = examples.sentiment(labels=_STORED if same_order else _STORED[::-1])
    rows = [{"sentence": text, "label": label} for text, label in (("a", 0), ("b", 1))]
    folder = _to_parquet(tmp_path, _with_names(rows, _STORED), task)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / task.name / "validation.parquet")
    if same_order:
        train, reported, _ = load_source(task, folder)
        assert train.column("label") == reported.column("label") == _STORED
        return
    with pytest.raises(DataError, match=r"are indices of labels in .*validation\.parquet") as found:
        load_source(task, folder)
    assert "other labels' names in " in found.value.problem


_CARD = """---
dataset_info:
- config_name: feel
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '1': bad
          '0': good
  splits: []
---
# Feel
"""


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("above", [False, True])
def test_a_downloaded_data_sets_card_names_the_integers(
    tmp_path: Path, form: str, *, above: bool
) -> None:
    """As the library datasets reads it: the card may be that of several configurations."""
    folder = tmp_path / "feel"
    folder.mkdir()
    (tmp_path if above else folder).joinpath("README.md").write_text(_CARD)
    for split in ("train", "validation"):
        if form == "parquet":
            pq.write_table(
                pa.table({"sentence": list("abcd"), "label": [0, 1, 0, 1]}),
                folder / f"{split}.parquet",
            )
        else:
            text = "".join(f'{{"sentence": "a{n}", "label": {n}}}\n' for n in (0, 1, 0, 1))
            if form == "csv":
                text = "sentence,label\na,0\nb,1\nc,0\nd,1.0\n"
            (folder / f"{split}.{form}").write_text(text)
    task = examples.sentiment()
    assert task.labels == ("bad", "good")
    source = Source(path=str(folder))
    found = loaded_examples(task.model_copy(update={"source": source}), None)
    assert [[example.label for example in split] for split in found] == [[1, 0, 1, 0]] * 2
    indices = {"kinds": {"label": "number"}}
    columns = task.columns.model_copy(update=indices)
    found = loaded_examples(task.model_copy(update={"source": source, "columns": columns}), None)
    assert [example.label for example in found[0]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "card",
    [
        "# For people\n",
        "---\nnot: [closed\n---\n",
        "---\nno end\n",
        "---\ndataset_info: none\n---\n",
        _CARD.replace("label\n", "other\n"),
        _CARD.replace("'1'", "one"),
        _CARD.replace("'1'", "'2'"),
        _CARD.replace("  splits: []", _CARD[18 : _CARD.index("  splits")].replace("good", "fine")),
    ],
)
def test_a_card_without_one_list_of_names_changes_nothing(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert card_names(tmp_path, examples.sentiment().columns) is None
