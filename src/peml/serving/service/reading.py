"""Reads a request's JSON as encoded rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from peml.data.encoding import encode_row
from peml.data.task_columns import read_list
from peml.errors import DataError, nearest
from peml.evaluation.mixed import EncodedRow
from peml.serving.predictor import Predictor
from peml.serving.service.body import spell_kind
from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import AskedRow, Text, Work
from peml.tasks import Example, Task, TaskRenderer


class _Named(NamedTuple):
    """A row, the name of its task, and its path in the body."""

    task: str
    row: Any
    path: str


class RowReader:
    """Reads the body of ``POST /v1/predict``."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self._predictor = predictor
        self._limits = limits
        self._ids = {task.name: number for number, task in enumerate(predictor.tasks)}
        self._renderers = [TaskRenderer(task) for task in predictor.tasks]
        self._known = [_top_names(task) for task in predictor.tasks]

    def read(self, body: Mapping[str, Any]) -> list[Work]:
        """The work of all rows, in their order; refuses wrong rows, and too many rows or tokens."""
        work = [self._read(self.task_id(named.task), named) for named in self._named(body)]
        tokens = sum(each.tokens for each in work)
        if tokens > self._limits.tokens:
            raise RefusedError(
                413,
                "too_many_tokens",
                f"the rows have {tokens} tokens, options and texts to generate included",
                field="rows",
                allowed=f"at most {self._limits.tokens} tokens",
                remedy="send fewer rows in a request",
            )
        return work

    def task_id(self, name: str, field: str = "task") -> int:
        """The index of a task; refuses an unknown one."""
        if name not in self._ids:
            raise RefusedError(
                404,
                "unknown_task",
                f"there is no task {name!r}.{nearest(name, self._ids)}",
                field=field,
                allowed=", ".join(self._ids),
                remedy="name one of the model's tasks",
            )
        return self._ids[name]

    def _named(self, body: Mapping[str, Any]) -> list[_Named]:
        rows, task = body.get("rows"), body.get("task")
        if not isinstance(rows, list):
            found = spell_kind(rows) if "rows" in body else "missing"
            raise RefusedError.invalid(f"rows is {found}", "rows", "a list of rows")
        if len(rows) > self._limits.rows:
            raise RefusedError(
                413,
                "too_many_rows",
                f"the request has {len(rows)} rows",
                field="rows",
                allowed=f"at most {self._limits.rows} rows",
                remedy="send them in several requests",
            )
        if task is not None:
            self.task_id(_text(task, "task"))
        named = []
        for number, row in enumerate(rows):
            path = f"rows[{number}]"
            if not isinstance(row, dict):
                raise RefusedError.invalid(
                    f"{path} is {spell_kind(row)}", path, "an object with columns"
                )
            if task is not None:
                named.append(_Named(task, row, path))
                continue
            if "task" not in row:
                raise RefusedError.invalid(
                    f"{path} names no task", f"{path}.task", "the name of a task"
                )
            rest = {name: value for name, value in row.items() if name != "task"}
            named.append(_Named(_text(row["task"], f"{path}.task"), rest, path))
            self.task_id(named[-1].task, f"{path}.task")
        return named

    def _read(self, task_id: int, named: _Named) -> Work:
        """One row's work; each is read by itself, whatever else is in the request."""
        task, known = self._predictor.tasks[task_id], self._known[task_id]
        for name in named.row:
            if known is not None and name not in known:
                raise RefusedError.invalid(
                    f"{named.path}: the task {named.task!r} reads no column {name!r}."
                    f"{nearest(name, known)}",
                    f"{named.path}.{name}",
                    ", ".join(known),
                    "correct the name, or leave it out",
                )
        try:
            [row] = read_list([named.row], task)
            example = self._renderers[task_id].render(row, 0, labelled=False)
            return self._encode(task_id, task, example)
        except DataError as error:
            path = f"{named.path}.{error.field}" if error.field else named.path
            raise RefusedError.of(error, kind="invalid_row", field=path) from error

    def _encode(self, task_id: int, task: Task, example: Example) -> Work:
        family = self._predictor.base.family
        columns = encode_row(example, task, family, task.type.evaluated_as)
        if not task.type.generates:
            return AskedRow(EncodedRow(task_id, columns), example.options)
        return Text(
            task_id,
            columns["input_ids"][0],
            family.spelling,
            limit=self._predictor.evaluation.longest(task),
            stop=family.stops(task),
            gap=columns["gap"],
            cut=columns["cut"],
        )


def _top_names(task: Task) -> tuple[str, ...] | None:
    """The names that a row's fields may have; None if the task's format decides."""
    if task.format is not None:
        return None
    needed = task.columns.shown
    names = [*needed, *(task.columns.aliases[n] for n in needed if n in task.columns.aliases)]
    return tuple(dict.fromkeys([*names, *(name.partition(".")[0] for name in names)]))


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RefusedError.invalid(f"{field} is {spell_kind(value)}", field, "a text")
    return value
