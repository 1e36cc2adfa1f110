"""Reads files that choose the solved rows to show: a task and a row's number per line."""

from collections.abc import Mapping
from pathlib import Path

from peml.data.lines import is_csv, read_rows
from peml.errors import DataError, nearest
from peml.tasks.matching import read_integer

ENDINGS = (".jsonl", ".csv")
"""Kinds of such files."""


def read_chosen(path: Path) -> dict[str, tuple[int, ...]]:
    """Numbers of the chosen rows of each task, in the order of the file (JSONL or CSV).

    Columns are ``task`` and ``row``, the number of the row in its split, from 0.

    Raises:
        DataError: The file can't be read, or a line names no row, or one twice; the line is
            named.
    """
    chosen: dict[str, list[int]] = {}
    for line, content in read_rows(path):
        unknown = [name for name in ("task", "row") if name not in content]
        if unknown:
            raise _refused(path, line, f"has no {' and no '.join(unknown)}")
        task, number = content["task"], content["row"]
        if is_csv(path) and isinstance(number, str):
            number = read_integer(number)
        if not isinstance(task, str) or not task:
            raise _refused(path, line, f"has the task {task!r}, which is no name")
        if type(number) is not int or number < 0:
            raise _refused(path, line, f"has the row {content['row']!r}, which is no number from 0")
        rows = chosen.setdefault(task, [])
        if number in rows:
            raise _refused(path, line, f"names row {number} of task {task!r} a second time")
        rows.append(number)
    return {task: tuple(rows) for task, rows in chosen.items()}


def take_chosen(path: Path, chosen: Mapping[str, tuple[int, ...]], task: str) -> tuple[int, ...]:
    """The chosen rows of a task.

    Raises:
        DataError: The file has no row of the task.
    """
    if task in chosen:
        return chosen[task]
    raise DataError(
        f"{path} names no row of task {task!r}.{nearest(task, chosen)}",
        allowed=f"a line for each row to show; it has rows of {', '.join(chosen) or 'no task'}",
        action=f'Add lines such as {{"task": "{task}", "row": 0}}.',
    )


def _refused(path: Path, line: int, problem: str) -> DataError:
    return DataError(
        f"{path}, line {line} {problem}.",
        allowed='a task and the number of one of its rows, such as {"task": "mood", "row": 3}',
        action="Correct the line.",
    )
