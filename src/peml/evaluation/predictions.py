"""The stored predictions of a run: one Parquet file per task, enough to recompute every metric.

Columns: ``row`` (number of the row in its source split), ``gold`` and ``predicted`` (option index,
score or text, depending on the task), ``scores`` (one number per option) if the task has options,
and ``group`` if rows belong to groups. The schema's metadata describes the task. Readers ignore
other columns.
"""

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
from peml.evaluation.metrics import GROUP_SCORES, METRICS, compute_metrics, margins, score_constant
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
    """The description of a task in its predictions file (the schema's metadata).

    Scores of different versions can't be compared. Labels are empty if the options differ by row or
    there are none. `majority` is the constant baseline's answer, computed from the rows of
    `majority_of`. With `answers_in_text`, gold and predicted hold option texts (several may be
    right) instead of option indices.
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
        """A gold or predicted value for people to read: a label's name, or the value itself."""
        if isinstance(value, tuple):
            return " or ".join(value)
        if not isinstance(value, int):
            return f"{value:g}" if isinstance(value, float) else str(value)
        return self.labels[value] if self.labels else f"option {value}"

    @property
    def fields(self) -> dict[str, Any]:
        """Columns of the file and their Arrow types, except for the optional ``group``."""
        gold = predicted = _VALUES[self.type.answer]
        if self.answers_in_text:
            gold, predicted = pa.list_(pa.string()), pa.string()
        fields = {"row": pa.int64(), "gold": gold, "predicted": predicted}
        return fields | ({"scores": _SCORES} if self.type.chooses else {})


@dataclass(frozen=True, slots=True)
class TaskPredictions:
    """A finished model's predictions for the rows of one task.

    `rows` are the numbers in the source split, from 0. A right answer is a tuple of texts if
    several are right; a text with special tokens has the spaces that the model's tokenizer writes
    around them. Without options, each row's scores are empty; without groups, `groups` is None.
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
        names = self.task.metrics
        return compute_metrics(names, self.gold, self.predicted, self.groups, self.scores)

    def compared(self, metric: str) -> Sequence[Any]:
        """What a metric compares with the right answers: predictions, or margins to rank rows."""
        return margins(self.scores) if metric in OF_SCORES else self.predicted

    def majority(self) -> dict[str, float]:
        """The constant baseline's scores, by metric."""
        return score_constant(self.task.metrics, self.gold, self.task.majority, self.groups)


def first_mismatch(one: TaskPredictions, other: TaskPredictions) -> str | None:
    """Describes the first row in which two runs differ in row number or right answer.

    Returns:
        The difference in words, or None if all rows are the same.
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
        f"row {longer.rows[shared]} is only in the {which}"
    )


def same_answer(one: Any, other: Any) -> bool:
    """Whether two right answers are the same; spaces don't count, since tokenizers change them."""
    if isinstance(one, str) and isinstance(other, str):
        return "".join(one.split()) == "".join(other.split())
    return bool(one == other)


def predictions_path(run: Path, task: str) -> Path:
    """The file with a task's predictions in a run folder."""
    return run / "predictions" / f"{task}.parquet"


def write_predictions(run: Path, kept: TaskPredictions) -> None:
    """Writes or atomically replaces a task's file; equal predictions give equal bytes."""
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


def read_predictions(run: Path, task: str) -> TaskPredictions:
    """Reads a task's predictions from a run folder.

    Raises:
        CheckpointError: The file is missing, damaged, of another task or in another format.
    """
    path = predictions_path(run, task)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except FileNotFoundError as error:
        raise _unusable(path, "is missing") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unusable(path, f"can't be read: {error}") from error
    header = _header(path, table.schema.metadata or {})
    if header.name != task:
        raise _unusable(path, f"can't be read: it holds the task {header.name!r}")
    grouped = any(name in GROUP_SCORES for name in header.metrics)
    _check_columns(path, table, header.fields | ({"group": pa.string()} if grouped else {}))
    if header.type.chooses and not header.answers_in_text:
        _check_options(path, table, header)
    scores = table["scores"].to_pylist() if header.type.chooses else [[]] * len(table)
    rows, gold, predicted = (table[name].to_pylist() for name in ("row", "gold", "predicted"))
    if header.answers_in_text:
        gold = [tuple(texts) for texts in gold]
    groups = table["group"].to_pylist() if grouped else None
    return TaskPredictions(header, rows, gold, predicted, scores, groups)


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
        raise _unusable(path, "can't be read: it doesn't describe its task") from error
    for name in task.metrics:
        known = (*METRICS, *GROUP_SCORES)
        if name not in known:
            raise _unusable(path, f"can't be read: unknown metric {name!r}.{nearest(name, known)}")
    return task


def _check_columns(path: Path, table: Any, expected: Mapping[str, Any]) -> None:
    for name, kind in expected.items():
        if name not in table.column_names:
            raise _unusable(path, f"can't be read: it has no column {name!r}")
        # Comparing types ignores the name of a list's items, which differs between writers.
        actual = table.schema.field(name).type
        if actual != kind:
            raise _unusable(path, f"can't be read: column {name!r} holds {actual}, not {kind}")
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
                    path, f"can't be read: column {name!r} holds {option}, not an option's index"
                )
    if pc.list_flatten(table["scores"]).null_count:
        raise _unusable(path, "can't be read: column 'scores' has empty fields")


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {problem}", allowed="the unchanged file that `peml fit` wrote", action=_RESTORE
    )
