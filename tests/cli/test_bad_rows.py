"""Rows that can't be used are refused by file and row, by whichever command meets them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from peml.testing import tiny_model
from tests.cli.commands import Said, peml
from tests.e2e.fixtures import Runs
from tests.e2e.toy import Row, toy_config, write_rows, write_suite
from tests.models.tokenizers import small_tokenizer

Capture = pytest.CaptureFixture[str]

_SPLITS = ("train", "validation")


def _rows(folder: Path, task: str, split: str) -> list[Row]:
    path = folder / "data" / task / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def _change(folder: Path, split: str, task: str = "ending", row: int = 3, **values: Any) -> Path:
    rows = _rows(folder, task, split)
    rows[row] |= values
    path = folder / "data" / task / f"{split}.jsonl"
    write_rows(path, rows)
    return path


_BAD: dict[str, tuple[Row, tuple[str, ...]]] = {
    "empty option": (
        {"options": ["good", " "]},
        ("field 'options': option 1 (from 0) is empty (' ')", "options with a text"),
    ),
    "one option": ({"options": ["good"]}, ("is not a list of options", "at least two texts")),
    "label past the options": (
        {"answer": 2},
        ("field 'answer': 2 is neither an index from 0 to 1 nor the text of one option",),
    ),
}


@pytest.mark.parametrize("split", _SPLITS)
@pytest.mark.parametrize("case", _BAD)
def test_a_bad_row_is_named_by_check_and_by_fit(
    toys: Path, tmp_path: Path, capsys: Capture, case: str, split: str
) -> None:
    values, words = _BAD[case]
    suite = write_suite(tmp_path)
    path = _change(tmp_path, split, **values)
    config = [toy_config(toys, family, "lora") for family in ("encoder", "causal")]
    override = f"tasks.suite={suite}"
    for command in (
        ("tasks", "check", suite, "--allow-leakage"),
        *(("fit", one, "--dry-run", "--set", override) for one in config),
    ):
        said = peml(capsys, *command)
        assert said.code == 2
        assert f"error: {path}: Task 'ending', row 3 (from 0)" in said.error
        assert "Allowed: " in said.error or "index from 0" in said.error
        assert "Next: Correct the row" in said.error
        for word in words:
            assert word in said.error


@pytest.mark.parametrize("labels", [["good", "bad"], ["sad", "good"]])
def test_a_label_text_is_one_of_the_options(
    toys: Path, tmp_path: Path, capsys: Capture, labels: list[str]
) -> None:
    """Label texts in place of indices; the first is right, the second names no option."""
    suite = write_suite(tmp_path)
    for split in _SPLITS:
        rows = [{"start": "it is", "options": ["good", "bad"], "answer": label} for label in labels]
        write_rows(tmp_path / "data" / "ending" / f"{split}.jsonl", rows * 8)
    said = peml(capsys, "tasks", "check", suite, "--allow-leakage")
    assert said.code == (0 if "bad" in labels else 2)
    if said.code:
        assert "train.jsonl: Task 'ending', row 0 (from 0), field 'answer': 'sad'" in said.error
        assert "nor the text of one option" in said.error


@pytest.mark.parametrize("family", ["encoder", "causal", "seq2seq"])
def test_an_option_too_long_for_the_model_is_counted_or_named(
    toys: Path, tmp_path: Path, capsys: Capture, family: str
) -> None:
    suite = write_suite(tmp_path)
    path = _change(tmp_path, "validation", options=["good", "the dog is bad " * 30])
    config = toy_config(toys, family, "lora")
    command = ("fit", config, "--dry-run", "--set", f"tasks.suite={suite}")
    said = peml(capsys, *command, "--set", "model.too_long=refuse")
    assert said.code == 2
    assert f"{path}: Task 'ending', row 3 (from 0): the text is" in said.error
    assert "raise model.max_length, shorten the row, or set model.too_long: cut" in said.error
    assert _cut(peml(capsys, *command)) == 1


def _cut(said: Said) -> int:
    """The rows of the task `ending` that were cut, as the plan says."""
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if "│ ending" in line]
    return int(line.split("│")[-2])


@pytest.mark.parametrize("family", ["encoder", "causal", "seq2seq"])
def test_a_context_too_long_for_the_model_is_cut_and_counted(
    toys: Path, tmp_path: Path, capsys: Capture, family: str
) -> None:
    suite = write_suite(tmp_path)
    _change(tmp_path, "validation", start="the dog is not bad, it is " * 20)
    config = toy_config(toys, family, "lora")
    assert _cut(peml(capsys, "fit", config, "--dry-run", "--set", f"tasks.suite={suite}")) == 1


def test_repeated_options_and_empty_answers_are_told(
    toys: Path, tmp_path: Path, capsys: Capture
) -> None:
    suite = write_suite(tmp_path)
    twice = _change(tmp_path, "train", options=["good", "good"], answer=1)
    empty = _change(tmp_path, "validation", "rewrite", 5, target="")
    said = peml(capsys, "tasks", "check", suite, "--allow-leakage")
    assert said.code == 0
    told = " ".join(said.out.split())
    assert f"{twice}: 1 row has an option twice, only one of which can be right" in told
    assert "(the first is row 3, from 0)" in told
    assert f"{empty}: 1 row has an empty right answer (the first is row 5, from 0)" in told
    config = toy_config(toys, "causal", "lora")
    assert peml(capsys, "fit", config, "--dry-run", "--set", f"tasks.suite={suite}").code == 0


def test_answers_that_a_tokenizer_does_not_give_back_are_told(
    tmp_path: Path, capsys: Capture
) -> None:
    suite = write_suite(tmp_path)
    model = tmp_path / "model"
    tiny_model("llama").save_pretrained(model)
    small_tokenizer("unigram").save_pretrained(model)
    option = _change(tmp_path, "validation", options=["good", "\u2603 good"])
    target = _change(tmp_path, "validation", "rewrite", 5, target="the dog \u2603")
    said = peml(capsys, "tasks", "check", suite, "--model", model)
    told = " ".join(said.out.split())
    for path, place in (
        (option, "row 3, from 0: '\u2603 good' becomes ' <unk> good'"),
        (target, "row 5, from 0: 'the dog \u2603' becomes ' the dog <unk>'"),
    ):
        have = "1 row has an answer that the model's tokenizer doesn't give back"
        assert f"Note: {path}: {have} (the first is {place})." in told
    assert told.count("give back") == 2
    assert "give back" not in peml(capsys, "tasks", "check", suite).out


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_model_that_says_nothing_is_scored(
    toys: Path, tmp_path: Path, capsys: Capture, family: str
) -> None:
    """A head of zeros answers with padding, which is no text; one right answer is empty too."""
    suite = write_suite(tmp_path, train=8, validation=4)
    _change(tmp_path, "validation", "rewrite", 1, target="")
    stem = {"causal": "llama", "seq2seq": "t5"}[family]
    untied: Row = {"tie_word_embeddings": False}
    config = toy_config(
        tmp_path, family, "lora", tasks={"suite": str(suite), "include": ["rewrite"]}
    )
    model = tmp_path / stem
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | untied))
    weights = load_file(model / "model.safetensors")
    embedding = weights.get("model.embed_tokens.weight", weights.get("shared.weight"))
    assert embedding is not None
    weights["lm_head.weight"] = torch.zeros_like(embedding)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    said = peml(capsys, "fit", config, "--output", tmp_path / "run")
    assert said.code == 0, said.error
    results = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["rewrite"]
    assert results["all"] == {"exact_match": 0.25, "rouge_l": 0.0}
    assert peml(capsys, "evaluate", tmp_path / "run", "--errors").code == 0


def _predict(capsys: Capture, run: Path, path: Path, task: str = "ending") -> tuple[int, str, str]:
    answers = path.parent / "answers.jsonl"
    said = peml(capsys, "predict", run, "--task", task, "-i", path, "-o", answers)
    return said.code, " ".join(said.out.split()), said.error


_ROW: Row = {"start": "it is", "options": ["good", "bad", "good"]}


def test_predict_reads_what_training_reads(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    run = runs("encoder", "lora")
    row = _ROW | {"start": "it\u2028is"}
    text = json.dumps(row, ensure_ascii=False) + "\r\n\r\n" + json.dumps(row) + "\n"
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert _predict(capsys, run, path)[0] == 0
    answers = [json.loads(a) for a in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["row"] for answer in answers] == [0, 1]
    for answer in answers:  # an option that is there twice has its share once
        assert list(answer["scores"]) == ["good", "bad"]
        assert sum(answer["scores"].values()) == pytest.approx(1)
        assert max(answer["scores"], key=answer["scores"].__getitem__) == answer["prediction"]
    said = []
    (tmp_path / "rows.csv").write_text("sentence\nit is bad\n")
    pq.write_table(pa.table({"sentence": ["it is bad"]}), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        assert _predict(capsys, run, tmp_path / name, "mood")[0] == 0
        said.append((tmp_path / "answers.jsonl").read_text())
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"options": ["good", ""]},
            (", line 2: Task 'ending', row 1 (from 0), field 'options': option 1", "is empty"),
        ),
        ({"start": 3}, (", line 2, field 'start': 3 is not a text",)),
        ({"start": None}, (", line 2, field 'start': null",)),
    ],
)
def test_predict_names_file_and_row(
    runs: Runs, tmp_path: Path, capsys: Capture, change: Row, words: tuple[str, ...]
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [_ROW, _ROW | change])
    code, _, error = _predict(capsys, runs("encoder", "lora"), path)
    assert code == 2
    assert f"error: {path}{words[0]}" in error
    for word in words:
        assert word in error
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is a folder, not a file"),
        (json.dumps(_ROW).encode() + b"\n\xe9\n", "line 2 is not UTF-8"),
        (json.dumps(_ROW).encode() + b'\n{"start"\n', "line 2 is not valid JSON"),
    ],
)
def test_predict_names_file_and_line(
    runs: Runs, tmp_path: Path, capsys: Capture, content: bytes | None, words: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.mkdir() if content is None else path.write_bytes(content)
    code, _, error = _predict(capsys, runs("encoder", "lora"), path)
    assert code == 2
    assert str(path) in error
    assert words in error


def test_predict_tells_of_rows_it_cut(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [_ROW, _ROW | {"start": "the dog " * 60}])
    code, out, _ = _predict(capsys, runs("encoder", "lora"), path)
    assert code == 0
    assert "1 of 2 rows were longer than the model takes, and were cut" in out


@pytest.mark.parametrize("command", [("tasks", "check"), ("fit",)])
@pytest.mark.parametrize(
    "content", [None, b"name: caf\xe9\n", "name: x\n".encode("utf-16"), b"", b"\0\0", b"- 1\n"]
)
def test_a_definition_that_is_no_yaml_is_named(
    tmp_path: Path, capsys: Capture, command: tuple[str, ...], content: bytes | None
) -> None:
    path = tmp_path / "x.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    said = peml(capsys, *command, path)
    assert said.code == 2
    assert said.error.startswith("error: ")
    assert str(path) in said.error
    assert "Traceback" not in said.error
