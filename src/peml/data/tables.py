"""Takes the columns that a task needs from a table (Parquet or the hub), as plain types.

Texts, lists of texts, integers and floats of any Arrow type are cast to one type each. Columns of
other types are refused, and so are values that can't be used.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peml.data.fields import refuse_repeated, refuse_rival
from peml.data.mapped import BATCH
from peml.data.plain import describe_bad_byte, why_unusable
from peml.data.task_columns import check_columns, spell_row
from peml.errors import DataError
from peml.tasks import Task

_IS = pa.types
_AS_TEXTS = (_IS.is_string, _IS.is_large_string, _IS.is_string_view, _IS.is_null)
_AS_LISTS = (
    *(_IS.is_list, _IS.is_large_list, _IS.is_fixed_size_list),
    *(_IS.is_list_view, _IS.is_large_list_view),
)
_SHORT = (pa.float16(), pa.float32())


def find_columns(
    schema: pa.Schema, fields: Sequence[str], task: Task, where: str
) -> dict[str, str]:
    """The column of a table to read for each field that a task needs.

    Fields of structs are found by dotted names.

    Raises:
        DataError: A column is missing or occurs twice.
    """
    found = [name for field in schema for name in _flat_names(field)]
    aliases = {n: other for n, other in task.columns.aliases.items() if n not in found}
    sources = {n: aliases.get(n, n) for n in fields}
    check_columns(
        task, fields, [*found, *(n for n, other in aliases.items() if other in found)], where
    )
    read = set(sources.values())
    try:
        refuse_repeated([name for name in found if name in read])
    except ValueError as error:
        raise DataError(
            f"Task {task.name!r}: {where}: {error}.",
            allowed="each column once",
            action="Rename one of the two, or leave one out.",
        ) from error
    return sources


def find_rivals(names: Sequence[str], sources: Mapping[str, str], task: Task) -> dict[str, str]:
    """The other name (`Columns.aliases`) of each field, of those that are columns too."""
    aliases = task.columns.aliases.items()
    return {n: other for n, other in aliases if sources.get(n) == n and names.count(other) == 1}


def needed_table(
    table: pa.Table, sources: Mapping[str, str], task: Task, where: str, first: int = 0
) -> pa.Table:
    """The columns that a task needs, by its names, as texts, numbers, booleans or lists.

    `sources` are those of `find_columns`, `first` is the number of the table's first row.

    Raises:
        DataError: A column has a wrong type, or a value can't be used.
    """
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    columns = {}
    for name, source in sources.items():
        column = table.column(source)
        spelled = name in (*task.columns.options, task.columns.keys)
        wanted = _plain_type(column.type, numbers=spelled)
        if wanted is None:
            raise DataError(
                f"Task {task.name!r}: {where} has {column.type} in the column {source!r}.",
                allowed="a text, a number, true or false, or a list of texts in every row",
                action="Write the column as one of these, or correct the task's columns.",
            )
        columns[name] = _plain(column, wanted, where, source, first)
    for name, other in find_rivals(table.column_names, sources, task).items():
        pairs = zip(table.column(name).to_pylist(), table.column(other).to_pylist(), strict=True)
        for number, (value, instead) in enumerate(pairs, start=first):
            refuse_rival(name, value, other, instead, f"{where}, {spell_row(number)}")
    return pa.table(columns)


def as_written(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose short floats become the decimals that were written: 0.1 stays 0.1."""
    columns = [_cast(c, pa.float64()) if c.type in _SHORT else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def content_key(table: pa.Table) -> str:
    """A checksum of a table's content that doesn't depend on its batches."""
    schema = table.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    checksum = hashlib.sha256(schema.encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
        checksum.update(batch.serialize())
    return checksum.hexdigest()


def _flat_names(field: pa.Field) -> list[str]:
    if not pa.types.is_struct(field.type):
        return [field.name]
    inner = [name for child in field.type.fields for name in _flat_names(child)]
    return [f"{field.name}.{name}" for name in inner]


def _plain_type(kind: pa.DataType, *, numbers: bool = False) -> pa.DataType | None:
    """The plain type for a column's type, or None if there is none.

    With `numbers` a list may be of numbers, which options and keys spell out.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if any(is_kind(kind) for is_kind in _AS_TEXTS):
        return pa.string()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_boolean(kind):
        return kind
    if not any(is_kind(kind) for is_kind in _AS_LISTS):
        return None
    inner = _plain_type(kind.value_type)
    usable = (pa.string(), pa.int64(), pa.float64()) if numbers else (pa.string(),)
    return pa.list_(inner) if inner in usable else None


def _plain(
    column: pa.ChunkedArray, wanted: pa.DataType, where: str, name: str, first: int
) -> pa.ChunkedArray:
    plain = []
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)  # Parquet's readers take any bytes for a text
            if pa.types.is_floating(wanted) and pc.any(pc.invert(pc.is_finite(chunk))).as_py():
                raise _bad_value(chunk, where, name, first)
            plain.append(_cast(chunk, wanted))
        except pa.ArrowInvalid as error:
            raise _bad_value(chunk, where, name, first) from error
        first += len(chunk)
    return pa.chunked_array(plain, wanted)


def _cast(chunk: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_list_view(chunk.type) or pa.types.is_large_list_view(chunk.type):
        return pa.array(chunk.to_pylist(), wanted)  # Arrow's own cast of these is broken
    kind = _innermost(chunk.type)
    if kind == pa.float16():
        return pa.array([_shortest(value) for value in chunk.to_pylist()], wanted)
    if kind == pa.float32():  # by way of text, or 0.1 would become 0.10000000149011612
        chunk = chunk.cast(pa.list_(pa.string()) if pa.types.is_list(wanted) else pa.string())
    return chunk.cast(wanted)


def _innermost(kind: pa.DataType) -> pa.DataType:
    """The type of the values in a list or dictionary."""
    if pa.types.is_dictionary(kind) or pa.types.is_nested(kind):
        return _innermost(kind.value_type)
    return kind


def _shortest(value: Any) -> Any:
    """Floats of 16 bits as they are printed, which Arrow does as floats of 64."""
    if isinstance(value, list):
        return [_shortest(each) for each in value]
    return None if value is None else float(str(np.float16(value)))


def _bad_value(chunk: pa.Array, where: str, name: str, first: int) -> DataError:
    problems = ((row, _problem(value)) for row, value in enumerate(chunk, start=first))
    row, problem = next(((r, p) for r, p in problems if p), (first, "the values are damaged"))
    return DataError(
        f"{where}, row {row} (from 0), field {name!r}: {problem}.",
        allowed="texts in UTF-8, finite numbers, integers of 64 bits",
        action="Correct the row.",
    )


def _problem(value: pa.Scalar) -> str:
    try:
        return why_unusable(value.as_py())
    except UnicodeDecodeError as error:
        return f"the text is not UTF-8: {describe_bad_byte(error)}"
