"""Right answers that no trained model could give are told before training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from peml.config.loading import load_config
from peml.run.preparation import prepare
from peml.tasks import Task
from peml.testing.models import save_tiny_model
from tests.data.rows import Row, write_jsonl
from tests.tasks.examples import generation, sentiment


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _told(folder: Path, family: str, limit: int, answers: list[str]) -> list[str]:
    """What is said about reported rows with these answers."""
    task = generation(source={"path": "data"}, stop=["##"], max_new_tokens=limit)
    rows = [{"text": f"the dog {n}", "target": text} for n, text in enumerate(answers)]
    return _said(folder, family, task, [{"text": "a", "target": "b"}] * 4, rows)


def _said(
    folder: Path,
    family: str,
    task: Task,
    train: Sequence[Row],
    reported: Sequence[Row],
    about: str = "can't give the right",
    method: str = "lora",
) -> list[str]:
    name = str(save_tiny_model(family, folder / "model"))
    _forget_letters(folder / "model" / "tokenizer.json")
    fields = task.model_dump(mode="json", exclude_defaults=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(fields))
    write_jsonl(folder / "data" / "train.jsonl", train)
    write_jsonl(folder / "data" / "validation.jsonl", reported)
    config = folder / "config.yaml"
    tasks = {"files": [str(folder / "task.yaml")]}
    config.write_text(
        yaml.safe_dump({"model": {"name": name}, "tasks": tasks, "method": {"name": method}})
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prepare(load_config(config))
    return [str(each.message) for each in told if about in str(each.message)]


def _forget_letters(path: Path) -> None:
    """Makes a tokenizer read all that is not ASCII alike."""
    content = json.loads(path.read_text())
    content["normalizer"] = {
        "type": "Replace",
        "pattern": {"Regex": "[^ -~]+"},
        "content": "?",
    }
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_rows_that_a_model_can_not_tell_apart_are_told(family: str, tmp_path: Path) -> None:
    task = sentiment(source={"path": "data"})
    texts = {
        "foreign": ["\u4f60\u597d", "\u4e16\u754c", "the dog", "\u660e\u5929"],
        "own": ["the dog", "the fox", "the dog", "a film"],
    }
    if family == "bert":
        texts["long"] = [f"{'the dog ' * 99}{end}" for end in ("is", "is not", "does", "is")]
    for name, said in texts.items():
        rows = [{"sentence": text, "label": n % 2} for n, text in enumerate(said)]
        told = _said(tmp_path / name, family, task, rows, rows, "same tokens as a row with another")
        assert len(told) == (name != "own")
        assert all("2 of 4 rows have the same tokens" in each for each in told)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_answers_that_are_too_long_or_hold_a_stop_string_are_told(
    family: str, tmp_path: Path
) -> None:
    answers = ["yes", "the lazy dog", "no ## yes"]
    long, stopped = _told(tmp_path / "short", family, 3, answers)
    assert "answers of 2 of 3 rows" in long
    assert "the first is row 1, from 0" in long
    assert "answers of 1 of 3 rows" in stopped
    assert "the first is row 2, from 0): they contain a stop string" in stopped
    needed = int(long.partition("max_new_tokens to ")[2].partition(",")[0])
    assert len(_told(tmp_path / "longer", family, needed, answers)) == 1
    assert len(_told(tmp_path / "nearly", family, needed - 1, answers)) == 2


def test_answers_that_a_tokenizer_changes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = "peml.models.families.text.is_altered"
    monkeypatch.setattr(changed, lambda target, read: target == "No")
    (told,) = _told(tmp_path, "llama", 9, ["yes", "No"])
    assert "answers of 1 of 2 rows" in told
    assert "row 1, from 0): the tokenizer gives them back changed" in told


def test_labels_that_no_train_row_has_are_told(tmp_path: Path) -> None:
    task = sentiment(source={"path": "data"}, labels=["bad", "good", "odd"])
    rows = [{"sentence": f"the dog {n}", "label": label} for n, label in enumerate([0, 1, 0, 1])]
    (told,) = _said(tmp_path, "bert", task, rows, [{"sentence": "x", "label": 2}, *rows])
    assert "1 of 5 rows" in told
    assert "row 0, from 0): no train row has the label 'odd'" in told


@pytest.mark.parametrize(("family", "count"), [("bert", 1), ("llama", 0)])
def test_they_are_told_only_where_something_learns(tmp_path: Path, family: str, count: int) -> None:
    """Frozen trains the heads of an encoder, and nothing of a decoder."""
    task = sentiment(source={"path": "data"}, labels=["bad", "good", "odd"])
    rows = [{"sentence": f"the dog {n}", "label": label} for n, label in enumerate([0, 1, 0, 1])]
    reported = [{"sentence": "x", "label": 2}]
    assert len(_said(tmp_path, family, task, rows, reported, method="frozen")) == count


def test_rows_with_the_text_of_a_special_token_are_told(tmp_path: Path) -> None:
    task = sentiment(source={"path": "data"})
    rows = [{"sentence": text, "label": n % 2} for n, text in enumerate(["a", "b </s>", "c", "d"])]
    (told,) = _said(tmp_path, "bert", task, rows, rows, "special token")
    assert "1 of 4 rows hold the text of a special token (the first is row 1, from 0" in told
