"""A run's stored predictions: one Parquet file per task, from which metrics can be recomputed.

Columns: ``row`` (number of the row in its source split), ``gold`` and ``predicted`` (option index,
score or text, by the task), ``scores`` (one number per option) where the task has options, and
``group`` where rows belong together. The schema's metadata says which task it is. Readers leave
further columns alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peml.errors import CheckpointError, nearest
from peml.evaluation.metrics import (
    GROUP_SCORES,
    METRICS,
    compute_metrics,
    margins,
    score_constant,
)
from peml.files import write_bytes
from peml.tasks import OF_SCORES, Answer, Averaging, TaskType

_FORMAT = 1
_METADATA = b"peml"
_RESTORE = "restore the file from a copy, or train the run again in a new folder"
_SCORES = pa.list_(pa.float32())
# The Arrow type of gold and predicted.
_VALUES: Mapping[Answer, Any] = MappingProxyType(
    {"label": pa.int64(), "option": pa.int64(), "score": pa.float64(), "text": pa.string()}
)


class KeptTask(BaseModel):
    """What a predictions file says about its task, in the schema's metadata.

    Attributes:
        name: Name of the task.
        version: The task's version; scores of different versions mean different things.
        type: What gold and predicted are.
        metrics: Metrics, headline first.
        labels: Label names in index order; empty where a row brings its own options, or none.
        split: Which of the run's evaluation splits the rows are of.
        majority: The best constant guess.
        majority_of: Rows it is from: the train rows, or the reported ones if there are no others.
        answers_in_text: Whether options are told by their texts, of which several may be right.
        group: The group of tasks it belongs to, if any.
        average: What counts alike in a mean over tasks.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int
    type: TaskType
    metrics: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    split: Literal["reported", "development"] = "reported"
    majority: int | float | str
    majority_of: Literal["train", "reported"] = "train"
    answers_in_text: bool = False
    group: str | None = None
    average: Averaging = "tasks"

    def spell(self, value: Any) -> str:
        """A gold or predicted value as people read it: a label's name, or the value itself."""
        if isinstance(value, tuple):
            return " or ".join(value)
        if not isinstance(value, int):
            return f"{value:g}" if isinstance(value, float) else str(value)
        return self.labels[value] if self.labels else f"option {value}"

    @property
    def has_options(self) -> bool:
        """Whether the task is to choose among options, with a score each."""
        return self.type.chooses

    @property
    def fields(self) -> dict[str, Any]:
        """Columns of the file and their Arrow types; ``group`` is there besides where it is."""
        gold = predicted = _VALUES[self.type.answer]
        if self.answers_in_text:
            gold, predicted = pa.list_(pa.string()), pa.string()
        fields = {"row": pa.int64(), "gold": gold, "predicted": predicted}
        return fields | ({"scores": _SCORES} if self.has_options else {})


@dataclass(frozen=True, slots=True)
class KeptPredictions:
    """What a finished model said about the rows of one task.

    Attributes:
        task: Which task.
        rows: Number of each row in its source split, from 0.
        gold: Right answers; a tuple of texts where several are right. A text with special tokens
            has the spaces that the model's tokenizer gives back.
        predicted: The model's.
        scores: Of each row's options; a row has none where the task has no options.
        groups: Which rows belong together; None where a task has no groups.
    """

    task: KeptTask
    rows: Sequence[int]
    gold: Sequence[Any]
    predicted: Sequence[Any]
    scores: Sequence[Sequence[float]]
    groups: Sequence[str] | None = None

    def score(self, metric: str) -> float:
        """One metric of the task."""
        return self.metrics()[metric]

    def metrics(self) -> dict[str, float]:
        """All metrics of the task, headline first."""
        return compute_metrics(self.task, self.gold, self.predicted, self.groups, self.scores)

    def said(self, metric: str) -> Sequence[Any]:
        """What a metric compares with the right answers: predictions, or how rows are ranked."""
        return margins(self.scores) if metric in OF_SCORES else self.predicted

    def majority(self) -> dict[str, float]:
        """What the best constant guess scores, by metric."""
        return score_constant(self.task, self.gold, self.task.majority, self.groups)


def first_mismatch(one: KeptPredictions, other: KeptPredictions) -> str | None:
    """Where two runs were not scored on the same rows with the same answers, in words.

    Returns:
        The first row that differs, or None where all are the same.
    """
    pairs = zip(one.rows, one.gold, other.rows, other.gold, strict=False)
    for row, gold, other_row, other_gold in pairs:
        if row != other_row:
            return f"where the first has row {row}, the second has row {other_row}"
        if not same_answer(gold, other_gold):
            return (
                f"the answer of row {row} is {one.task.spell(gold)!r} in the first and "
                f"{other.task.spell(other_gold)!r} in the second"
            )
    shared = min(len(one.rows), len(other.rows))
    if len(one.rows) == len(other.rows):
        return None
    longer, which = (one, "first") if len(one.rows) > shared else (other, "second")
    return (
        f"{len(one.rows)} rows in the first and {len(other.rows)} in the second; "
        f"row {longer.rows[shared]} is in the {which} alone"
    )


def same_answer(one: Any, other: Any) -> bool:
    """Whether two right answers are the same; models differ in the spaces of a text they learn."""
    if isinstance(one, str) and isinstance(other, str):
        return "".join(one.split()) == "".join(other.split())
    return bool(one == other)


def predictions_path(run: Path, task: str) -> Path:
    """Where a run folder keeps the predictions of a task."""
    return run / "predictions" / f"{task}.parquet"


def write_predictions(run: Path, kept: KeptPredictions) -> None:
    """Replaces a task's file in a run folder in one step; equal predictions give equal bytes."""
    task = kept.task
    values = {"row": kept.rows, "gold": kept.gold, "predicted": kept.predicted}
    values["scores"] = kept.scores
    columns = {name: pa.array(values[name], field) for name, field in task.fields.items()}
    if kept.groups is not None:
        columns["group"] = pa.array(kept.groups, pa.string())
    header = {"format": _FORMAT, **task.model_dump(mode="json")}
    table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(header)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_bytes(predictions_path(run, task.name), buffer.getvalue().to_pybytes())


def read_predictions(run: Path, task: str) -> KeptPredictions:
    """Reads what a run has kept of a task.

    Raises:
        CheckpointError: The file is missing, damaged, of another task or of another format.
    """
    path = predictions_path(run, task)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except FileNotFoundError as error:
        raise _unusable(path, "is missing") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unusable(path, f"can't be read: {error}") from error
    kept = _header(path, table.schema.metadata or {})
    if kept.name != task:
        raise _unusable(path, f"can't be read: it holds the task {kept.name!r}")
    grouped = any(name in GROUP_SCORES for name in kept.metrics)
    _check_columns(path, table, kept.fields | ({"group": pa.string()} if grouped else {}))
    if kept.has_options and not kept.answers_in_text:
        _check_options(path, table, kept)
    scores = table["scores"].to_pylist() if kept.has_options else [[]] * len(table)
    row, gold, predicted = (table[name].to_pylist() for name in ("row", "gold", "predicted"))
    if kept.answers_in_text:
        gold = [tuple(texts) for texts in gold]
    groups = table["group"].to_pylist() if grouped else None
    return KeptPredictions(kept, row, gold, predicted, scores, groups)


def _header(path: Path, metadata: Mapping[bytes, bytes]) -> KeptTask:
    try:
        header = json.loads(metadata[_METADATA])
        if header["format"] != _FORMAT:
            raise CheckpointError(
                f"{path}: written in format {header['format']!r}",
                allowed=f"format {_FORMAT}",
                action="read this run with the version of peml that wrote it",
            )
        task = KeptTask.model_validate(header)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise _unusable(path, "can't be read: it doesn't say which task it is of") from error
    for name in task.metrics:
        known = (*METRICS, *GROUP_SCORES)
        if name not in known:
            raise _unusable(path, f"can't be read: unknown metric {name!r}.{nearest(name, known)}")
    return task


def _check_columns(path: Path, table: Any, expected: Mapping[str, Any]) -> None:
    for name, kind in expected.items():
        if name not in table.column_names:
            raise _unusable(path, f"can't be read: it has no column {name!r}")
        # The name of a list's items differs between writers; only what they are matters.
        found = table.schema.field(name).type
        if found != kind:
            raise _unusable(path, f"can't be read: column {name!r} holds {found}, not {kind}")
        if table[name].null_count:
            raise _unusable(path, f"can't be read: column {name!r} has empty fields")
    if not len(table):
        raise _unusable(path, "can't be read: it has no rows")


def _check_options(path: Path, table: Any, task: KeptTask) -> None:
    most = len(task.labels) or None
    for name in ("gold", "predicted"):
        for option in table[name].unique().to_pylist():
            if option < 0 or (most is not None and option >= most):
                raise _unusable(
                    path, f"can't be read: column {name!r} holds {option}, which is no option"
                )
    if pc.list_flatten(table["scores"]).null_count:
        raise _unusable(path, "can't be read: column 'scores' has empty fields")


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {problem}", allowed="the file as `peml fit` wrote it", action=_RESTORE
    )
