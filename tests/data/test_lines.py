"""What a file of rows can be instead of lines of UTF-8: read, or refused with file and line."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peml.data.lines import read_rows
from peml.data.settings import TasksSettings
from peml.data.sources import load_task_data
from peml.errors import DataError
from tests.data.rows import moods, write_jsonl
from tests.tasks import examples

_LABELS = ["bad", "good"]
_ROWS = b'{"sentence": "caf\xc3\xa9", "label": 0}\n{"sentence": "b", "label": 1}\n'
_CSV = b"sentence,label\ncaf\xc3\xa9,0\nb,1\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _train(folder: Path, name: str, content: bytes) -> list[tuple[str, int]]:
    """Sentences and labels of a train file, through the entry that every command takes."""
    write_jsonl(folder / "mood" / "validation.jsonl", moods(3))
    (folder / "mood" / name).write_bytes(content)
    data = load_task_data(examples.sentiment(), TasksSettings(suite="x", source=str(folder)), 0)
    rows = sorted([*data.train, *data.development], key=lambda row: str(row["_source_row"]))
    return [(row["sentence"], _LABELS.index(row["label"])) for row in rows]


_READ: dict[str, tuple[str, bytes]] = {
    "mark": ("train.jsonl", b"\xef\xbb\xbf" + _ROWS),
    "mark, csv": ("train.csv", b"\xef\xbb\xbf" + _CSV),
    "windows": ("train.jsonl", _ROWS.replace(b"\n", b"\r\n")),
    "windows, csv": ("train.csv", _CSV.replace(b"\n", b"\r\n")),
    "doubled returns": ("train.jsonl", _ROWS.replace(b"\n", b"\r\r\n")),
    "return between fields": ("train.jsonl", _ROWS.replace(b", ", b",\r ")),
    "old mac, csv": ("train.csv", _CSV.replace(b"\n", b"\r")),
    "blank lines": ("train.jsonl", b"\n\r\n" + _ROWS + b"\n  \n"),
    "blank lines, csv": ("train.csv", b"\n" + _CSV + b"\r\n\n"),
    "gzip": ("train.jsonl.gz", gzip.compress(_ROWS)),
    "gzip, csv, mark": ("train.csv.gz", gzip.compress(b"\xef\xbb\xbf" + _CSV)),
    "gzip in two parts": ("train.jsonl.gz", gzip.compress(_ROWS[:10]) + gzip.compress(_ROWS[10:])),
}


@pytest.mark.parametrize("case", _READ)
def test_these_are_the_same_rows(tmp_path: Path, case: str) -> None:
    assert _train(tmp_path, *_READ[case]) == [("café", 0), ("b", 1)]


def test_what_is_quoted_or_escaped_stays_in_the_text(tmp_path: Path) -> None:
    content = b'sentence,label\n"a\rb",0\n"c\r\nd",1\n'
    assert _train(tmp_path, "train.csv", content) == [("a\rb", 0), ("c\r\nd", 1)]
    content = rb'{"sentence": "a\u0000\r", "label": 0}' + b"\n"
    content += '{"sentence": "line\u2028\x85sep", "label": 1}\n'.encode()
    (tmp_path / "mood" / "train.csv").unlink()
    assert _train(tmp_path, "train.jsonl", content) == [("a\0\r", 0), ("line\u2028\x85sep", 1)]


def test_a_field_may_be_of_any_length(tmp_path: Path) -> None:
    text = "word " * 60_000
    found = _train(tmp_path, "train.csv", f"sentence,label\n{text},1\nb,0\n".encode())
    assert found == [(text, 1), ("b", 0)]


def test_what_is_wrong_with_a_field_that_no_task_reads_does_not_matter(tmp_path: Path) -> None:
    content = rb'{"sentence": "caf\u00e9", "label": 0, "id": 99999999999999999999, "x": NaN}'
    content += b"\n" + rb'{"sentence": "b", "label": 1, "y": ["\ud83d"]}'
    assert _train(tmp_path, "train.jsonl", content) == [("caf\u00e9", 0), ("b", 1)]


_REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "latin-1": (
        "train.jsonl",
        _ROWS + b'{"sentence": "caf\xe9", "label": 0}\n',
        'line 3 is not UTF-8: byte 0xe9 after \'{"sentence": "caf\'',
        "iconv -f latin1",
    ),
    "latin-1, csv": ("train.csv", _CSV + b"caf\xe9,0\n", "line 4 is not UTF-8", "iconv -f latin1"),
    "latin-1, later": ("train.csv", _CSV + b"b,1\n" * 9000 + b"\xe9,0\n", "line 9004", "latin1"),
    "utf-16": ("train.jsonl", _ROWS.decode().encode("utf-16"), "is UTF-16", "iconv -f utf-16"),
    "utf-16, csv": ("train.csv", _CSV.decode().encode("utf-16"), "is UTF-16", "iconv -f utf-16"),
    "utf-32, csv": ("train.csv", _CSV.decode().encode("utf-32"), "is UTF-32", "iconv -f utf-32"),
    "spreadsheet": ("train.csv", b"PK\x03\x04\n", "is a zip archive or a spreadsheet", "unpack"),
    "parquet by another name": ("train.csv", b"PAR1\x15\x04\n", "is a Parquet file", "its name"),
    "zstd": ("train.jsonl", b"\x28\xb5\x2f\xfd\n", "is compressed with zstd", "unpack"),
    "utf-16 without a mark": (
        "train.jsonl",
        _ROWS.decode().encode("utf-16-le"),
        "line 1 holds a zero byte",
        "if it is UTF-16",
    ),
    "zeros": ("train.jsonl", _ROWS + b"\0" * 64, "line 3 holds a zero byte", "cut off"),
    "zeros, csv": ("train.csv", _CSV + b"c\0d,0\n", "line 4 holds a zero byte", "cut off"),
    "old mac": (
        "train.jsonl",
        _ROWS.replace(b"\n", b"\r"),
        "line 1 is not valid JSON",
        "Carriage returns don't end a line",
    ),
    "joined": (
        "train.csv",
        _CSV + b"\xef\xbb\xbf" + _CSV,
        "line 4 is not valid",
        "Correct the line",
    ),
    "return in a field": ("train.csv", _CSV + b"a\rb,0\n", "line 4 is not valid CSV", "quote"),
    "column twice": ("train.csv", b"label," + _CSV, "the column 'label' is there twice", "Correct"),
    "column twice, jsonl": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "sentence": "b", "label": 0}\n',
        "line 3: the column 'sentence' is there twice",
        "Correct",
    ),
    "column twice, in an object": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "meta": {"x": 1, "x": 2}, "label": 0}\n',
        "line 3: the column 'x' is there twice",
        "Correct",
    ),
    "column twice, with a dot": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "meta": {"x": 1}, "meta.x": 1, "label": 0}\n',
        "line 3: the column 'meta.x' is there twice",
        "Correct",
    ),
    "latin-1, field": (
        "train.jsonl",
        b'{"sentence": "caf\xe9", "label": 0}\n',
        "line 1 is not UTF-8: byte 0xe9 after '{\"sentence\": \"caf' (field 'sentence')",
        "latin1",
    ),
    "latin-1, field, csv": (
        "train.csv",
        _CSV + b'"a\n\xe9\nb",1\n',
        "line 5 is not UTF-8: byte 0xe9 after '' (field 'sentence')",
        "latin1",
    ),
    "latin-1, header": ("train.csv", b"caf\xe9," + _CSV, "line 1 is not UTF-8", "latin1"),
    "half a character": (
        "train.jsonl",
        _ROWS + rb'{"sentence": "so \ud83d", "label": 0}',
        "line 3, field 'sentence': the text holds half a character, \\ud83d (a lone surrogate), "
        "after 'so '",
        "Correct",
    ),
    "too large": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "label": 9223372036854775808}',
        "line 3, field 'label': 9223372036854775808 needs more than 64 bits",
        "Correct",
    ),
    "far too large": (
        "train.jsonl",
        b'{"sentence": "a", "label": -' + b"1" * 9999 + b"}\n",
        "line 1, field 'label': -111111111111111111111111111111111111111... (10000 characters)",
        "Correct",
    ),
    "no number": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "label": NaN}',
        "line 3, field 'label': NaN is not a number in JSON",
        "Correct",
    ),
    "endless": (
        "train.jsonl",
        _ROWS + b'{"sentence": "a", "label": 1e999}',
        "line 3, field 'label': inf is not a finite number",
        "Correct",
    ),
    "too deep": ("train.jsonl", _ROWS + b'{"a": ' * 99999, "line 3: it is nested too", "Correct"),
    "hidden gzip": ("train.jsonl", gzip.compress(_ROWS), "gzip", "Name it train.jsonl.gz"),
    "hidden gzip, csv": ("train.csv", gzip.compress(_CSV), "gzip", "Name it train.csv.gz"),
    "cut gzip": ("train.jsonl.gz", gzip.compress(_ROWS * 99)[:-20], "can't be read", "again"),
    "no gzip": ("train.jsonl.gz", _ROWS, "can't be read: Not a gzipped file", "again"),
    "altered gzip": (
        "train.csv.gz",
        gzip.compress(_CSV)[:-8] + b"\1" * 8,
        "can't be read: CRC check failed",
        "again",
    ),
    "empty gzip": ("train.jsonl.gz", gzip.compress(b""), "has no rows", "Check"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_these_are_refused_by_file_and_line(tmp_path: Path, case: str) -> None:
    name, content, problem, action = _REFUSED[case]
    with pytest.raises(DataError) as caught:
        _train(tmp_path, name, content)
    assert str(tmp_path / "mood" / name) in caught.value.problem
    assert problem in caught.value.problem
    assert action in caught.value.action
    assert caught.value.allowed


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "gone.jsonl")


def _circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_folder, "is a folder, not a file"),
        (_dangling, "gone.jsonl, which is not there"),
        (_circle, "train.jsonl, which is not there"),
    ],
)
@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_what_is_no_file_is_named(
    tmp_path: Path, make: Callable[[Path], None], problem: str, name: str
) -> None:
    write_jsonl(tmp_path / "mood" / "validation.jsonl", moods(3))
    make(tmp_path / "mood" / name)
    with pytest.raises(DataError) as caught:
        load_task_data(examples.sentiment(), TasksSettings(suite="x", source=str(tmp_path)), 0)
    assert f"{tmp_path / 'mood' / name} is a" in caught.value.problem
    assert problem.replace("train.jsonl", name) in caught.value.problem


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything, so it becomes another user for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["mood/train.jsonl", "mood/train.parquet", "mood", ""])
def test_what_may_not_be_read_is_named(closed: str) -> None:
    with tempfile.TemporaryDirectory() as root:  # pytest's own folders are closed to others
        Path(root).chmod(0o755)
        for name in ("train", "validation"):
            write_jsonl(Path(root) / "data" / "mood" / f"{name}.jsonl", moods(3))
        path = Path(root) / "data" / closed
        if path.suffix == ".parquet":
            path.with_suffix(".jsonl").rename(path)
        path.chmod(0)
        settings = TasksSettings(suite="x", source=f"{root}/data")
        with pytest.raises(DataError) as caught, _as_nobody():
            load_task_data(examples.sentiment(), settings, 0)
        path.chmod(0o755)
    assert str(path) in caught.value.problem
    assert "ermission denied" in caught.value.problem
    assert "ermissions" in caught.value.action


_FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@given(st.lists(st.tuples(_FIELD, _FIELD), max_size=4), st.booleans())
def test_any_text_comes_back_from_csv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], pack: bool
) -> None:
    def quoted(fields: tuple[str, str]) -> str:
        return ",".join('"' + field.replace('"', '""') + '"' for field in fields)

    content = "\r\n".join(map(quoted, [("longer", "than five"), *rows])).encode()
    path = tmp_path_factory.mktemp("csv") / ("x.csv.gz" if pack else "x.csv")
    path.write_bytes(gzip.compress(content) if pack else content)
    assert [tuple(row.values()) for _, row in read_rows(path)] == rows
