"""What a run keeps of its predictions comes back as it was, or is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peml.errors import CheckpointError
from peml.evaluation import TaskPredictions, read_predictions
from peml.evaluation.predictions import (
    KeptTask,
    first_mismatch,
    predictions_path,
    write_predictions,
)
from peml.tasks import TaskType

MOOD = KeptTask(
    name="mood",
    version=3,
    type=TaskType.CLASSIFICATION,
    metrics=("accuracy", "f1"),
    labels=("bad", "good"),
    split="development",
    majority=1,
)


def kept(kind: TaskType = TaskType.CLASSIFICATION, **changes: Any) -> TaskPredictions:
    """Four rows of a task of a type."""
    rows = [5, 2, 11, 7]
    tenth = float(np.float32(0.1))
    match kind:
        case TaskType.REGRESSION:
            task = KeptTask(name="near", version=1, type=kind, metrics=("pearson",), majority=0.7)
            return TaskPredictions(
                task, rows, [0.0, 0.1, 2.0, 1.0], [0.3, 1 / 3, 2.5, 1.0], [[]] * 4
            )
        case TaskType.GENERATION:
            task = KeptTask(name="say", version=1, type=kind, metrics=("rouge_l",), majority="a")
            return TaskPredictions(
                task, rows, ["a b", "ü", "", "c"], ["a", "ü", "x\n", "d"], [[]] * 4
            )
        case TaskType.MULTIPLE_CHOICE:
            task = KeptTask(name="end", version=1, type=kind, metrics=("accuracy",), majority=0)
            scores = [[0.5, tenth], [-3.0, 1.0, 2.0], [0.0, 0.0], [1.0, tenth]]
            return TaskPredictions(task, rows, [0, 1, 1, 0], [0, 2, 0, 0], scores)
    scores = [[tenth, 0.5], [2.0, 1.0], [0.0, 0.25], [-1.0, 1.0]]
    return replace(TaskPredictions(MOOD, rows, [1, 0, 0, 1], [1, 0, 1, 1], scores), **changes)


def grouped() -> TaskPredictions:
    """Two questions with three and one answers; the second question is all right."""
    task = KeptTask(
        name="multi",
        version=1,
        type=TaskType.CLASSIFICATION,
        metrics=("f1a", "em"),
        labels=("no", "yes"),
        majority=1,
    )
    groups = ["[0, 1]", "[0, 2]", "[0, 1]", "[0, 1]"]
    scores = [[0.0, 1.0]] * 4
    return TaskPredictions(task, [0, 1, 2, 3], [1, 0, 1, 0], [1, 0, 0, 0], scores, groups)


def answered_in_text() -> TaskPredictions:
    """Rows of which several options may be right."""
    task = KeptTask(
        name="cloze",
        version=1,
        type=TaskType.MULTIPLE_CHOICE,
        metrics=("span_f1", "span_em"),
        majority="Oslo",
        answers_in_text=True,
    )
    gold = [("Oslo", "the city of Oslo"), ("Bergen",)]
    return TaskPredictions(task, [4, 9], gold, ["oslo", "Oslo"], [[0.5, 0.25], [1.0, 2.0]])


@pytest.mark.parametrize("before", [grouped(), answered_in_text()], ids=["groups", "texts"])
def test_groups_and_several_right_answers_come_back(
    before: TaskPredictions, tmp_path: Path
) -> None:
    write_predictions(tmp_path, before)
    assert read_predictions(tmp_path, before.task.name) == before


def test_metrics_over_groups_and_texts_are_recomputed() -> None:
    # One yes of two is found and none is false; one question of two is all right.
    assert grouped().metrics() == {"f1a": pytest.approx(2 / 3), "em": 0.5}
    assert grouped().majority() == {"f1a": pytest.approx(2 / 3), "em": 0.0}
    assert answered_in_text().metrics() == {"span_f1": 0.5, "span_em": 0.5}
    assert answered_in_text().task.spell(("Oslo", "Bergen")) == "Oslo or Bergen"


def test_a_file_without_the_groups_its_metric_is_over_is_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path, replace(grouped(), groups=None))
    with pytest.raises(CheckpointError, match="group"):
        read_predictions(tmp_path, "multi")


TYPES = [t for t in TaskType if t is not TaskType.PAIR_CLASSIFICATION]


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_kept_comes_back(kind: TaskType, tmp_path: Path) -> None:
    before = kept(kind)
    write_predictions(tmp_path, before)
    assert read_predictions(tmp_path, before.task.name) == before
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{before.task.name}.parquet"]


def test_the_file_can_be_read_without_this_package(tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    table = pq.read_table(tmp_path / "predictions" / "mood.parquet")
    assert table.column_names == ["row", "gold", "predicted", "scores"]
    assert table["row"].to_pylist() == [5, 2, 11, 7]
    assert json.loads(table.schema.metadata[b"peml"]) == {
        "format": 1,
        "name": "mood",
        "version": 3,
        "type": "classification",
        "metrics": ["accuracy", "f1"],
        "labels": ["bad", "good"],
        "split": "development",
        "majority": 1,
        "majority_of": "train",
        "answers_in_text": False,
        "group": None,
        "average": "tasks",
    }


def test_metrics_are_recomputed_by_hand(tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    found = read_predictions(tmp_path, "mood")
    assert found.metrics() == {"accuracy": 3 / 4, "f1": pytest.approx(4 / 5)}  # 2 hits, 1 false
    assert found.majority() == {"accuracy": 1 / 2, "f1": pytest.approx(2 / 3)}


def test_a_diverged_regression_is_kept_as_it_is(tmp_path: Path) -> None:
    write_predictions(tmp_path, replace(kept(TaskType.REGRESSION), predicted=[math.nan] * 4))
    assert np.isnan(read_predictions(tmp_path, "near").predicted).all()


def test_equal_predictions_give_equal_bytes(tmp_path: Path) -> None:
    for run in ("a", "b"):
        write_predictions(tmp_path / run, kept())
    one, two = (predictions_path(tmp_path / run, "mood").read_bytes() for run in ("a", "b"))
    assert one == two


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(tmp_path, kept())

    def fail(descriptor: int) -> None:
        raise InterruptedError

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(Exception, match="can't write"):
        write_predictions(tmp_path, replace(kept(), predicted=[0] * 4))
    assert read_predictions(tmp_path, "mood") == kept()


def test_further_columns_are_left_alone(tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    path = predictions_path(tmp_path, "mood")
    pq.write_table(pq.read_table(path).append_column("group", pa.array([0, 0, 1, 1])), path)
    assert read_predictions(tmp_path, "mood") == kept()


def _header(**changes: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        header = json.loads(table.schema.metadata[b"peml"]) | changes
        return table.replace_schema_metadata({b"peml": json.dumps(header)})

    return change


def _with(column: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(column), column, values)


DAMAGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no rows": (lambda t: t.slice(0, 0), "it has no rows"),
    "no column": (lambda t: t.drop_columns(["scores"]), "no column 'scores'"),
    "another type": (_with("gold", pa.array(["a"] * 4)), "column 'gold' holds string, not int64"),
    "empty field": (_with("gold", pa.array([1, None, 0, 1])), "column 'gold' has empty fields"),
    "no option": (
        _with("predicted", pa.array([1, 0, 2, 1])),
        "column 'predicted' holds 2, not an option's index",
    ),
    "less than no option": (_with("gold", pa.array([1, 0, -1, 1])), "column 'gold' holds -1"),
    "empty score": (
        _with("scores", pa.array([[0.1, None]] * 4, pa.list_(pa.float32()))),
        "column 'scores' has empty fields",
    ),
    "no header": (lambda t: t.replace_schema_metadata(None), "doesn't describe its task"),
    "bad header": (_header(metrics=[]), "doesn't describe its task"),
    "another task": (_header(name="same"), "it holds the task 'same'"),
    "unknown metric": (_header(metrics=["acuracy"]), "Did you mean 'accuracy'"),
    "newer": (_header(format=2), "written in format 2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_another_shape_is_refused(damage: str, tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    path = predictions_path(tmp_path, "mood")
    change, message = DAMAGES[damage]
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_predictions(tmp_path, "mood")
    assert str(path) in caught.value.problem
    assert caught.value.allowed
    assert caught.value.action


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mood\.parquet is missing"):
        read_predictions(tmp_path, "mood")


def test_a_file_cut_short_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    path = predictions_path(tmp_path, "mood")
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"mood\.parquet can't be read"):
            read_predictions(tmp_path, "mood")


def test_an_altered_byte_never_changes_a_prediction(tmp_path: Path) -> None:
    write_predictions(tmp_path, kept())
    path = predictions_path(tmp_path, "mood")
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(bytes([*whole[:place], whole[place] ^ 0x10, *whole[place + 1 :]]))
        try:
            found = read_predictions(tmp_path, "mood")
        except CheckpointError:
            refused += 1
            continue
        values = (found.rows, found.gold, found.predicted, found.scores)
        assert values == (kept().rows, kept().gold, kept().predicted, kept().scores), place
    assert refused > len(whole) / 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"predicted": [0] * 4}, None),
        ({"rows": [5, 3, 11, 7]}, "where the first has row 2, the second has row 3"),
        (
            {"gold": [1, 0, 1, 0]},
            "the answer of row 11 is 'bad' in the first and 'good' in the second",
        ),
        (
            {"rows": [5, 2], "gold": [1, 0]},
            "4 rows in the first and 2 in the second; row 11 is only in the first",
        ),
        (
            {"rows": [5, 2, 11, 7, 1], "gold": [1, 0, 0, 1, 1]},
            "4 rows in the first and 5 in the second; row 1 is only in the second",
        ),
    ],
)
def test_the_first_row_that_differs_is_named(changes: dict[str, Any], message: str | None) -> None:
    assert first_mismatch(kept(), kept(**changes)) == message
