"""Files of rows, predicted a window at a time."""

from __future__ import annotations

import csv
import json
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from peml.data.unlabelled import UnlabelledFile
from peml.errors import DataError, RunError
from peml.serving.bulk import BulkPrediction
from peml.serving.formats import FORMATS
from peml.serving.predictor import Prediction, Predictor
from tests.e2e.toy import write_rows
from tests.models.tasks import tiny_task_model
from tests.tasks.examples import choice, score, sentiment

WORDS = ("dog", "fox", "ball", "film", "man", "box", "yes", "no")
SOURCE = {"model": "abc"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = tiny_task_model("bert", (sentiment(), score(), choice())).eval()
    generator = torch.Generator().manual_seed(2)
    assert model.heads is not None
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Predictor(model)


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows of very different lengths, so that a window is not in order of length."""
    return [
        {"id": f"a{n}", "sentence": " ".join([WORDS[n % 8]] * (1 + 7 * n % 11)), "more": [n, None]}
        for n in range(count)
    ]


def work(
    predictor: Predictor,
    path: Path,
    form: str = "jsonl",
    keep: tuple[str, ...] | None = (),
    window: int = 4,
    task: str = "mood",
) -> BulkPrediction:
    """The prediction of a file."""
    rows = UnlabelledFile(path, predictor.task(task), keep)
    return BulkPrediction(predictor, task, rows, FORMATS[form](rows, predictor.task(task)), window)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(predictor: Predictor, rows: list[dict[str, Any]]) -> list[Prediction]:
    return predictor.predict("mood", [{"sentence": row["sentence"]} for row in rows])


@pytest.mark.parametrize("window", [1, 4, 100])
def test_answers_are_those_of_all_rows_at_once_in_order(
    predictor: Predictor, tmp_path: Path, window: int
) -> None:
    rows = rows_of(11)
    write_rows(tmp_path / "rows.jsonl", rows)
    counts: list[int] = []
    bulk = work(predictor, tmp_path / "rows.jsonl", keep=("id",), window=window)
    bulk.advance = counts.append
    bulk.write_file(tmp_path / "answers.jsonl", SOURCE)
    answers = read(tmp_path / "answers.jsonl")
    for number, (answer, row, wanted) in enumerate(
        zip(answers, rows, expected(predictor, rows), strict=True)
    ):
        assert list(answer) == ["row", "id", "prediction", "scores"]
        assert (answer["row"], answer["id"]) == (number, row["id"])
        assert answer["prediction"] == wanted.value
        assert answer["scores"] == pytest.approx(wanted.scores, abs=1e-5)
    assert len({answer["prediction"] for answer in answers}) > 1
    assert sum(counts) == 11
    assert max(counts) <= window
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "rows.jsonl"]


def test_long_rows_fill_a_window_sooner(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peml.data.unlabelled._LARGEST", 100)
    write_rows(tmp_path / "rows.jsonl", rows_of(20))
    file = UnlabelledFile(tmp_path / "rows.jsonl", predictor.task("mood"))
    windows = list(file.windows(100))
    assert [row for window in windows for row in window.rows] == [
        {"sentence": row["sentence"]} for row in rows_of(20)
    ]
    assert [window.first for window in windows] == [
        sum(len(each.rows) for each in windows[:n]) for n in range(len(windows))
    ]
    assert len(windows) > 3


def test_line_ends_of_any_kind_stay_in_their_cell_of_a_csv(
    predictor: Predictor, tmp_path: Path
) -> None:
    notes = ["one\rtwo", "\r", "one\r\ntwo", "one\ntwo", 'a "b"', ""]
    write_rows(tmp_path / "rows.jsonl", [{"sentence": "dog", "id": note} for note in notes])
    for source, target in (("rows.jsonl", "once.csv"), ("once.csv", "twice.csv")):
        rows = UnlabelledFile(tmp_path / source, predictor.task("mood"), ("id", "sentence"))
        form = FORMATS["csv"](rows, predictor.task("mood"))
        BulkPrediction(predictor, "mood", rows, form).write_file(tmp_path / target, SOURCE)
        with (tmp_path / target).open(newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == notes


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_file_without_rows_is_refused_in_every_format(
    predictor: Predictor, tmp_path: Path, form: str
) -> None:
    path = tmp_path / f"rows.{form}"
    path.write_text("sentence\n" if form == "csv" else "")
    if form == "parquet":
        pq.write_table(pa.table({"sentence": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="has no rows"):
        work(predictor, path).write_file(tmp_path / "answers.jsonl", SOURCE)
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_format_says_the_same(predictor: Predictor, tmp_path: Path, form: str) -> None:
    rows = rows_of(9)
    write_rows(tmp_path / "rows.jsonl", rows)
    for each in ("jsonl", form):
        bulk = work(predictor, tmp_path / "rows.jsonl", each, keep=None)
        bulk.write_file(tmp_path / f"answers.{each}", SOURCE)
    wanted = read(tmp_path / "answers.jsonl")
    if form == "csv":
        with (tmp_path / "answers.csv").open(newline="") as file:
            told: list[dict[str, Any]] = list(csv.DictReader(file))
        found = [
            answer | {name: json.loads(answer[name]) for name in ("row", "scores", "more")}
            for answer in told
        ]
    else:
        table = pq.read_table(tmp_path / "answers.parquet")
        assert table.schema.field("row").type == pa.int64()
        found = [a | {"scores": dict(a["scores"])} for a in table.to_pylist()]
    assert found == wanted
    assert [answer["more"] for answer in wanted] == [row["more"] for row in rows]


def test_columns_of_parquet_keep_their_types_and_are_texts_in_json(
    predictor: Predictor, tmp_path: Path
) -> None:
    columns = {
        "first": ["dog", "fox"],
        "second": ["a", "b"],
        "when": pa.array([date(2026, 1, 2), None]),
        "small": pa.array([1, 2], pa.int8()),
        "price": pa.array([0.1, None], pa.float32()),
        "raw": pa.array([b"x", b"y"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    bulk = work(predictor, tmp_path / "rows.parquet", "parquet", keep=None, task="closeness")
    bulk.write_file(tmp_path / "answers.parquet", SOURCE)
    found = pq.read_table(tmp_path / "answers.parquet")
    assert found.column_names == ["row", *columns, "prediction", "scores"]
    assert found.schema.field("small").type == pa.int8()
    assert found.schema.field("price").type == pa.float32()
    assert found.schema.field("prediction").type == pa.float64()
    assert found.column("raw").to_pylist() == [b"x", b"y"]
    kept = ("when", "small", "price")
    bulk = work(predictor, tmp_path / "rows.parquet", keep=kept, task="closeness")
    bulk.write_file(tmp_path / "answers.jsonl", SOURCE)
    assert [[a[name] for name in kept] for a in read(tmp_path / "answers.jsonl")] == [
        ["2026-01-02", 1, 0.1],
        [None, 2, None],
    ]
    bulk = work(predictor, tmp_path / "rows.parquet", "csv", keep=kept, task="closeness")
    bulk.write_file(tmp_path / "answers.csv", SOURCE)
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[1].startswith("0,2026-01-02,1,0.1,")
    with pytest.raises(DataError, match="a kept column holds a bytes"):
        work(predictor, tmp_path / "rows.parquet", keep=("raw",), task="closeness").write_file(
            tmp_path / "raw.jsonl", SOURCE
        )


def test_a_column_without_a_common_type_is_no_column_of_parquet(
    predictor: Predictor, tmp_path: Path
) -> None:
    rows = [{"sentence": "dog", "id": value} for value in (1, 2.5, None)]
    write_rows(tmp_path / "rows.jsonl", rows)
    bulk = work(predictor, tmp_path / "rows.jsonl", "parquet", keep=("id",))
    bulk.write_file(tmp_path / "answers.parquet", SOURCE)
    assert pq.read_table(tmp_path / "answers.parquet")["id"].to_pylist() == [1.0, 2.5, None]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"sentence": "dog", "id": "x"}])
    with pytest.raises(DataError, match="'id' have no common type"):
        work(predictor, tmp_path / "rows.jsonl", "parquet", keep=("id",))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("idd",), r"no column 'idd'\. Did you mean 'id'"),
        (("prediction",), "'prediction' can't be kept"),
        (None, "'prediction' can't be kept"),
    ],
)
def test_columns_that_can_t_be_kept_are_named(
    predictor: Predictor, tmp_path: Path, keep: tuple[str, ...] | None, message: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"sentence": "dog", "id": 1, "prediction": "x"}])
    with pytest.raises(DataError, match=message):
        work(predictor, tmp_path / "rows.jsonl", keep=keep)


def test_a_number_that_json_can_t_say_is_named_by_line(
    predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"sentence": "dog", "id": NaN}\n')
    bulk = work(predictor, tmp_path / "rows.jsonl", keep=("id",))
    with pytest.raises(DataError, match=r"line 1, field 'id': NaN is not a number"):
        bulk.write_file(tmp_path / "answers.jsonl", SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    bulk = work(predictor, tmp_path / "rows.jsonl")
    bulk.write_file(tmp_path / "answers.jsonl", SOURCE)


class _KilledError(Exception):
    pass


def _stop(bulk: BulkPrediction, output: Path, windows: int) -> None:
    """Lets a prediction to a file end without a trace of its own after some windows."""
    answered: list[int] = []

    def advance(count: int) -> None:
        answered.append(count)
        if len(answered) == windows:
            raise _KilledError

    bulk.advance = advance
    with pytest.raises(_KilledError):
        bulk.write_file(output, SOURCE)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_stopped_command_goes_on(predictor: Predictor, tmp_path: Path, form: str) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / f"answers.{form}"
    write_rows(path, rows_of(18))
    work(predictor, path, form, keep=("id",)).write_file(output, SOURCE)
    whole = output.read_bytes()
    output.unlink()
    _stop(work(predictor, path, form, keep=("id",)), output, 3)
    assert not output.exists()
    bulk = work(predictor, path, form, keep=("id",))
    bulk.write_file(output, SOURCE)
    assert (bulk.done, bulk.reused) == (18, 12)
    assert output.read_bytes() == whole
    assert sorted(each.name for each in tmp_path.iterdir()) == [output.name, "rows.jsonl"]


def test_rows_that_changed_meanwhile_are_answered_again(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows = rows_of(12)
    write_rows(path, rows)
    _stop(work(predictor, path), output, 2)
    rows[1] |= rows[2]
    write_rows(path, rows)
    bulk = work(predictor, path)
    bulk.write_file(output, SOURCE)
    assert bulk.reused == 4
    assert [a["prediction"] for a in read(output)] == [a.value for a in expected(predictor, rows)]


def test_cut_rows_are_counted_across_calls(predictor: Predictor, tmp_path: Path) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    length = predictor.base.family.max_length
    rows = [{"sentence": "dog " * (length if n % 3 == 0 else 1)} for n in range(8)]
    write_rows(path, rows)
    _stop(work(predictor, path), output, 1)
    bulk = work(predictor, path)
    bulk.write_file(output, SOURCE)
    assert (bulk.reused, bulk.cut) == (4, 3)


def test_kept_columns_that_changed_meanwhile_are_written_anew(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    write_rows(path, rows_of(8))
    _stop(work(predictor, path, keep=("id",)), output, 1)
    write_rows(path, [{**row, "id": f"new {row['id']}"} for row in rows_of(8)])
    work(predictor, path, keep=("id",)).write_file(output, SOURCE)
    assert all(answer["id"].startswith("new ") for answer in read(output))


def test_rows_that_stand_elsewhere_now_get_their_new_numbers(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows = rows_of(12)
    write_rows(path, rows)
    _stop(work(predictor, path), output, 2)
    write_rows(path, rows[4:])  # without the first window
    bulk = work(predictor, path)
    bulk.write_file(output, SOURCE)
    assert bulk.reused == 0
    assert [answer["row"] for answer in read(output)] == list(range(8))


def test_a_bad_row_keeps_the_answers_before_it(predictor: Predictor, tmp_path: Path) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows = [{"start": WORDS[n % 8], "options": ["yes", "no"]} for n in range(10)]
    bad = [*rows[:9], {"start": "dog", "options": ["yes", ""]}]
    path.write_text("\n\n".join(json.dumps(row) for row in bad))
    with pytest.raises(DataError, match=r"rows\.jsonl, line 19: .*row 9 \(from 0\)") as caught:
        work(predictor, path, task="ending").write_file(output, SOURCE)
    assert ". 8 answers are in" in caught.value.action
    assert not output.exists()
    stream = BytesIO()
    with pytest.raises(DataError) as caught:
        work(predictor, path, task="ending").write_to(stream)
    assert "8 answers are written" in caught.value.action
    assert len(stream.getvalue().splitlines()) == 8
    write_rows(path, rows)
    bulk = work(predictor, path, task="ending")
    bulk.write_file(output, SOURCE)
    assert bulk.reused == 8
    assert len(read(output)) == 10


def test_answers_of_another_command_are_not_gone_on_with(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    write_rows(path, rows_of(9))
    _stop(work(predictor, path), output, 1)
    with pytest.raises(RunError, match="begun with other settings: model was abc, and is def"):
        work(predictor, path).write_file(output, {"model": "def"})
    assert not output.exists()


def test_two_processes_never_write_one_file(predictor: Predictor, tmp_path: Path) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    write_rows(path, rows_of(9))
    first = work(predictor, path)
    refused = []

    def begin_another(_: int) -> None:
        with pytest.raises(RunError, match="another process is working in") as caught:
            work(predictor, path).write_file(output, SOURCE)
        refused.append(caught.value)

    first.advance = begin_another
    first.write_file(output, SOURCE)
    assert len(refused) == 3
    assert len(read(output)) == 9
    assert {each.name for each in tmp_path.iterdir()} == {"rows.jsonl", "answers.jsonl"}
