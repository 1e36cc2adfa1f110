"""`peml predict` with standard streams, formats and mistakes."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.commands import peml
from tests.e2e.fixtures import Runs

Capture = pytest.CaptureFixture[str]

ROWS = [{"id": n, "sentence": f"the dog is {word}"} for n, word in enumerate(("bad", "good"))]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def run(runs: Runs) -> Path:
    return runs("encoder", "lora")


def _stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_streams_give_what_files_give(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text(JSONL)
    asked = ("predict", run, "--task", "mood", "--keep", "id")
    said = peml(capsys, *asked, "-i", tmp_path / "rows.jsonl", "-o", tmp_path / "a.jsonl")
    assert said.code == 0, said.error
    assert "2 predictions in" in said.out
    wanted = (tmp_path / "a.jsonl").read_text()
    _stdin(monkeypatch, JSONL.encode())
    said = peml(capsys, *asked, "-i", "-", "-o", "-")
    assert (said.code, said.out, said.error.strip()) == (0, wanted, "")
    _stdin(monkeypatch, b"sentence,id\r\nthe dog is bad,0\r\nthe dog is good,1\r\n")
    told = ("--input-format", "csv", "--output-format", "csv")
    said = peml(capsys, *asked, "-i", "-", "-o", "-", *told)
    found = list(csv.DictReader(io.StringIO(said.out)))
    answers = [json.loads(line) for line in wanted.splitlines()]
    assert [row["prediction"] for row in found] == [row["prediction"] for row in answers]
    assert [json.loads(row["scores"]) for row in found] == [row["scores"] for row in answers]


def test_parquet_goes_through_streams_and_files_of_any_name(
    run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "rows.data"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    words = ["predict", run, "--task", "mood", "--keep-all", "-i", path, "-o", "-"]
    formats = ["--input-format", "parquet", "--output-format", "parquet"]
    from peml.cli import main

    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in (*words, *formats)])
    assert not ended.value.code
    table = pq.read_table(io.BytesIO(capfdbinary.readouterr().out))
    assert table.column_names == ["row", "id", "sentence", "prediction", "scores"]
    assert table["id"].to_pylist() == [0, 1]


def test_messages_name_the_stream_or_the_file(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("predict", run, "--task", "mood", "-o", tmp_path / "a.jsonl")
    _stdin(monkeypatch, b'{"sentence": "good"}\n{"sentence": 3}\n')
    said = peml(capsys, *asked, "-i", "-")
    assert said.code == 2
    assert "standard input, line 2, field 'sentence': 3 is not a text" in said.error
    (tmp_path / "rows.txt").write_text("sentence\ngood,bad\n")
    said = peml(capsys, *asked, "-i", tmp_path / "rows.txt", "--input-format", "csv")
    assert f"{tmp_path / 'rows.txt'}, line 2 is not valid CSV" in said.error


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("-o", "answers.txt"), "answers.txt doesn't say of which format it is"),
        (("-o", "a.jsonl.gz"), "compressed with gzip"),
        (("-o", "."), "is a folder"),
        (("-o", "rows.jsonl"), "is the input as well"),
        (("-o", "-", "--output-format", "jsnl"), "Did you mean 'jsonl'"),
        (("-o", "-", "--input-format", "xml"), "--input-format is 'xml'"),
    ],
)
def test_outputs_that_can_t_be_written_are_refused_at_once(
    words: tuple[str, ...],
    problem: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(JSONL)
    said = peml(capsys, "predict", "nowhere", "--task", "mood", "-i", "rows.jsonl", *words)
    assert said.code == 2
    assert problem in said.error
    assert "Allowed: " in said.error
    assert "Next: " in said.error
    assert (tmp_path / "rows.jsonl").read_text() == JSONL
