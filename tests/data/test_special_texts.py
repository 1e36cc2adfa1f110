"""Rows with the text of a special token are counted: a tokenizer reads it as that token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.data.inspection import inspect_task
from peml.data.odd_tokens import describe_special_texts
from peml.data.rows import Rows
from peml.testing.tasks import tiny_family
from tests.data.rows import write_jsonl
from tests.tasks.examples import choice, sentiment

TOKENS = ["<s>", "</s>", "<|im_end|>", "[SEP]"]


def _said(texts: list[str], **fields: Any) -> str:
    rows = [{"sentence": text, "label": "positive", **fields} for text in texts]
    columns = {"inputs": ["sentence"], "extra": list(fields), "label": "label"}
    task = sentiment(columns=columns)
    return describe_special_texts(task, Rows.from_list(rows), TOKENS)


@pytest.mark.parametrize("token", TOKENS)
def test_rows_with_a_special_tokens_text_are_counted(token: str) -> None:
    said = _said(["plain", f"half {token} half", "s / [ SEP ]", f"{token}"])
    assert said.startswith(
        f"2 of 4 rows hold the text of a special token (the first is row 1, from 0, with '{token}')"
    )


def test_other_fields_are_searched_and_templates_are_not() -> None:
    assert _said(["a", "b"], note="see [SEP]").startswith("2 of 2 rows")
    assert _said(["a", "b"], note=None) == ""
    assert (
        describe_special_texts(
            sentiment(template="{{ sentence }}</s>"),
            Rows.from_list([{"sentence": "a", "label": "positive"}]),
            TOKENS,
        )
        == ""
    )


def test_of_chosen_rows_only_these_are_counted() -> None:
    rows = Rows.from_list([{"sentence": text, "label": 0} for text in ("<s>", "a", "</s>", "b")])
    assert describe_special_texts(sentiment(), rows.select([1, 2]), TOKENS).startswith("1 of 2")
    assert describe_special_texts(sentiment(), rows.select([1, 3]), TOKENS) == ""


def test_options_in_a_list_are_searched() -> None:
    task = choice()
    names = {**dict.fromkeys(task.columns.inputs, "a"), task.columns.label: 0}
    options = str(task.columns.choices)
    rows = [{**names, options: ["x", "y"]}, {**names, options: ["x", "</s>"]}]
    assert describe_special_texts(task, Rows.from_list(rows), TOKENS).startswith("1 of 2 rows")


def test_a_check_with_a_model_notes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    rows = [{"sentence": text, "label": 1} for text in ("a", "b </s> c")]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    task = sentiment(source={"path": str(tmp_path)})
    notes = inspect_task(task, family=tiny_family("llama")).notes
    assert sum("1 of 2 rows hold the text of a special token" in note for note in notes) == 2
    assert not any("special token" in note for note in inspect_task(task).notes)
