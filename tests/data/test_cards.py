"""The files that a data set's card names are those that the library datasets reads."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from peml.data.cards import card_files
from peml.data.files import SUFFIXES
from peml.data.folders import split_files
from peml.data.sources import load_source
from peml.errors import DataError
from peml.tasks import Task
from peml.tasks.task import Source
from tests.tasks import examples

_TWO = """configs:
- config_name: en
  data_files: [{split: train, path: en.jsonl}, {split: validation, path: en-dev.jsonl}]
- config_name: de
  data_files: [{split: train, path: de.jsonl}, {split: validation, path: de-dev.jsonl}]
"""
_FOUR = ("en.jsonl", "en-dev.jsonl", "de.jsonl", "de-dev.jsonl")
_ONE = """configs:
- config_name: all
  data_files:
  - {split: train, path: [parts/*.jsonl, more.jsonl]}
  - {split: validation, path: held/**}
"""
_SPLITS = ("train", "validation")
_IN_FOLDERS = "configs:\n- {config_name: en, data_dir: en}\n- {config_name: de, data_dir: de}\n"
_LISTED = """configs:
- config_name: fr
  data_dir: fr
  data_files: [{split: train, path: a.jsonl}, {split: validation, path: b.jsonl}]
"""
_SHOWN = ("parts/1.jsonl", "more.jsonl", "held/x.jsonl")
_HIDDEN = (*_SHOWN, "parts/.x.jsonl", "held/.cache/x.jsonl", "held/__MACOSX/x.jsonl")
_FENCED = f"---\n{_ONE}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _write(folder: Path, card: str, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps({"sentence": f"{name} {n}", "label": n}) + "\n" for n in (0, 1))
        )
    start = "" if "---" in card else "---\n"
    (folder / "README.md").write_text(f"{start}{card}---\n# About\n")


def _texts(folder: Path, subset: str | None = None) -> list[list[str]]:
    source = Source(path=str(folder), subset=subset)
    task: Task = examples.sentiment().model_copy(update={"source": source})
    train, reported, _ = load_source(task)
    return [[row["sentence"] for row in rows] for rows in (train, reported)]


@pytest.mark.parametrize(
    ("card", "subset", "names"),
    [
        (_ONE, None, ("parts/1.jsonl", "parts/0.jsonl", "more.jsonl", "held/out/x.jsonl")),
        (_TWO, "de", _FOUR),
        (_TWO.replace("name: de", "name: default"), None, _FOUR),
        (_TWO.replace("name: en", "name: en\n  default: true"), None, _FOUR),
        (_ONE.replace("held/**", "validation*"), None, ("more.jsonl", "validation.jsonl")),
        (
            _ONE,
            None,
            _HIDDEN,
        ),
        (_IN_FOLDERS, "de", tuple(f"{a}/{b}.jsonl" for a in ("en", "de") for b in _SPLITS)),
        (_LISTED, None, ("fr/a.jsonl", "fr/b.jsonl", "a.jsonl", "b.jsonl")),
        (f"\ufeff{_FENCED}", None, _SHOWN),
    ],
    ids=[
        *("patterns", "subset", "default by name", "default", "own names"),
        *("hidden files", "folders", "folder and files", "byte order mark"),
    ],
)
def test_a_cards_files_are_those_that_datasets_reads(
    tmp_path: Path, card: str, subset: str | None, names: tuple[str, ...]
) -> None:
    folder = tmp_path / "set"
    _write(folder, card, *names)
    read = datasets.load_dataset(str(folder), subset, cache_dir=str(tmp_path / "own"))
    expected = [list(read[split]["sentence"]) for split in ("train", "validation")]
    assert _texts(folder, subset) == expected


def test_the_card_above_a_configurations_folder_names_its_files(tmp_path: Path) -> None:
    card = _TWO.replace("path: ", "path: en/")
    _write(tmp_path, card, "en/en.jsonl", "en/en-dev.jsonl")
    assert _texts(tmp_path / "en") == [
        ["en/en.jsonl 0", "en/en.jsonl 1"],
        ["en/en-dev.jsonl 0", "en/en-dev.jsonl 1"],
    ]


@pytest.mark.parametrize("card", [_TWO.replace("name: de", "name: de\n  default: true"), ""])
def test_a_configuration_that_no_card_has_is_not_read_as_the_default(
    tmp_path: Path, card: str
) -> None:
    folder = tmp_path / "mood"
    _write(folder, card, *_FOUR, "train.jsonl", "validation.jsonl")
    if card:
        (folder / "train.jsonl").unlink()
        (folder / "validation.jsonl").unlink()
        assert _texts(folder)[0][0].startswith("de.jsonl")
        with pytest.raises(ValueError, match="'dee' not found"):
            datasets.load_dataset(str(folder), "dee", cache_dir=str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"source\.subset is 'dee', and the card of") as caught:
        _texts(folder, "dee")
    assert ("en, de" if card else "it has no README.md") in str(caught.value)
    # A copy of a hub's data set: the folder is of the subset.
    hub = examples.sentiment(source={"hub": "x/y", "subset": "dee"})
    assert len(load_source(hub, str(tmp_path))[0]) == 2


@pytest.mark.parametrize("subset", ["en", "de", None])
def test_integers_have_the_names_of_the_configuration_that_counts(
    tmp_path: Path, subset: str | None
) -> None:
    names = {"en": ["bad", "good"], "de": ["good", "bad"]}
    infos = [
        {
            "config_name": name,
            "features": [
                {"name": "sentence", "dtype": "string"},
                {"name": "label", "dtype": {"class_label": {"names": listed}}},
            ],
        }
        for name, listed in names.items()
    ]
    folder = tmp_path / "set"
    card = _TWO if subset else _TWO.replace("name: de", "name: de\n  default: true")
    _write(folder, f"{card}dataset_info: {json.dumps(infos)}\n", *_FOUR)
    source = Source(path=str(folder), subset=subset)
    task = examples.sentiment().model_copy(update={"source": source})
    read = datasets.load_dataset(str(folder), subset, cache_dir=str(tmp_path / "own"))["train"]
    expected = read.features["label"].int2str(read["label"][:])
    assert [row["label"] for row in load_source(task)[0]] == expected == names[subset or "de"]


def test_another_file_of_the_splits_name_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _TWO, "en.jsonl", "en-dev.jsonl", "validation.jsonl")
    with pytest.raises(DataError, match=r"validation 2 times: .*validation.jsonl, .*en-dev.jsonl"):
        _texts(tmp_path, "en")


def test_files_of_two_kinds_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, _ONE.replace("more.jsonl", "more.csv"), "parts/1.jsonl", "more.csv")
    with pytest.raises(DataError, match=r"split train files of several kinds: .*more.csv"):
        _texts(tmp_path)


@pytest.mark.parametrize(
    "card",
    ["configs: 3\n", "configs: [{config_name: a}]\n", _TWO, _ONE.replace("more", "../more"), ""],
)
def test_a_card_that_names_no_files_that_are_there_changes_nothing(
    tmp_path: Path, card: str
) -> None:
    folder = tmp_path / "set"
    _write(folder, card, "train.jsonl", "validation.jsonl", "../more.jsonl")
    assert card_files(folder, "train", None, SUFFIXES) == {}
    assert _texts(folder)[1] == ["validation.jsonl 0", "validation.jsonl 1"]


@pytest.mark.parametrize(
    "option",
    [
        *("sep: ';'", "skiprows: [1]", "nrows: 1", "names: [label, sentence]", "quotechar: '~'"),
        *("encoding: cp1252", "thousands: '.'", "comment: '#'"),
    ],
)
def test_options_of_a_card_that_change_the_rows_are_refused(tmp_path: Path, option: str) -> None:
    _write_csv(tmp_path, f"configs:\n- config_name: default\n  {option}\n")
    with pytest.raises(DataError, match=r"train\.csv read with " + option.partition(":")[0]):
        _texts(tmp_path)


@pytest.mark.parametrize(
    "card",
    [
        "configs:\n- {config_name: default, sep: ',', encoding: UTF8, header: 0, version: 1}\n",
        "configs:\n- {config_name: default, sep: '\t', data_files: a.tsv}\n",  # converted since
    ],
)
def test_options_of_a_card_that_change_nothing_are_fine(tmp_path: Path, card: str) -> None:
    _write_csv(tmp_path, card)
    assert _texts(tmp_path) == [["a", "b"], ["a", "b"]]


def _write_csv(folder: Path, card: str) -> None:
    _write(folder, card)
    for split in _SPLITS:
        (folder / f"{split}.csv").write_text("sentence,label\na,0\nb,1\n")


def test_a_shard_that_is_missing_of_a_cards_pattern_is_refused(tmp_path: Path) -> None:
    part = "en/train-00000-of-00002.parquet"
    card = "configs:\n- config_name: default\n  data_files: [{split: train, path: en/train-*}]\n"
    _write(tmp_path, card, part)
    with pytest.raises(DataError, match="00001-of-00002"):
        split_files(tmp_path, "train")
    _write(tmp_path, card.replace("train-*", "train-00000-of-00002.parquet"))
    assert split_files(tmp_path, "train") == [(tmp_path / part,)]
