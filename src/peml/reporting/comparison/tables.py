"""A suite's tables as plain values, which are written as Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peml.records.comparison import ComparisonRecord, RowRecord, SuiteRecord
from peml.reporting.numbers import (
    NOTHING,
    interval,
    memory,
    plus_minus,
    ratio,
    score,
    seconds,
    signed,
)
from peml.reporting.summary import MAJORITY_NOTE


@dataclass(frozen=True, slots=True)
class Column:
    """A column's header; `below` is a second line: a unit, a metric."""

    title: str
    below: str = ""
    is_number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; `below` is a second line, `marks` are letters of footnotes.

    `is_best` marks the highest of a column if it has no flags.
    """

    text: str
    below: str = ""
    marks: tuple[str, ...] = ()
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns; the first column names the method.

    `last` is the row below a rule: the majority baseline.
    """

    columns: list[Column]
    rows: list[list[Cell]]
    last: list[Cell] | None
    notes: list[tuple[str, str]]

    def all_rows(self) -> list[list[Cell]]:
        """The rows, including the last one."""
        return [*self.rows, *([self.last] if self.last else [])]

    def parts(self, width: int) -> list[Table]:
        """The table in parts of at most ``width`` columns, each with the first column."""
        rest = range(1, len(self.columns), max(1, width - 1))
        picks = [[0, *range(start, min(start + width - 1, len(self.columns)))] for start in rest]
        return [
            Table(
                [self.columns[i] for i in pick],
                [[row[i] for i in pick] for row in self.rows],
                [self.last[i] for i in pick] if self.last else None,
                self.notes,
            )
            for pick in picks
        ]


def score_table(comparison: ComparisonRecord, suite: SuiteRecord) -> Table:
    """The table of scores: the mean over tasks, the difference to the best baseline, each task."""
    notes: dict[str, str] = {}
    columns = [
        Column("method", is_number=False),
        Column("mean", f"{len(suite.tasks)} tasks" if suite.average == "tasks" else "over rows"),
        Column("difference", f"to {suite.best_baseline}" if suite.best_baseline else ""),
        Column("task id", "at inference", is_number=False),
        *(Column(name, f"{group.tasks} tasks") for name, group in suite.groups.items()),
        *(Column(task.name, task.metric) for task in suite.tasks),
    ]
    best_mean = _shown_best(row.mean for row in suite.rows)
    best = {
        task.name: _shown_best(r.tasks[task.name].mean for r in suite.rows if task.name in r.tasks)
        for task in suite.tasks
    }
    rows = []
    for row in suite.rows:
        mean, missing = score(row.mean), _missing(row.finished, len(row.cells))
        is_best = mean == best_mean and not row.flagged
        cells = [
            Cell(row.label, missing, _mark(notes, [*row.flags, *row.notes])),
            Cell(mean, plus_minus(row.deviation), is_best=is_best),
            _difference(row, suite),
            Cell("needed" if comparison.method(row.label).needs_task_id else "no"),
        ]
        cells += [_group(row, suite, name) for name in suite.groups]
        cells += [_score(row, task.name, best[task.name], notes) for task in suite.tasks]
        rows.append(cells)
    last = [Cell("majority"), Cell(score(suite.majority_mean)), Cell(NOTHING), Cell("no")]
    last += [Cell(score(group.majority_mean)) for group in suite.groups.values()]
    for task in suite.tasks:
        marks = _mark(notes, [MAJORITY_NOTE] if task.majority_of == "reported" else [])
        last.append(Cell(score(task.majority), marks=marks))
    return Table(columns, rows, last, [(letter, text) for text, letter in notes.items()])


def cost_table(comparison: ComparisonRecord, suite: SuiteRecord) -> Table:
    """The table of costs of each method, relative to the first."""
    first = suite.rows[0]
    times = f"\u00d7 {first.label}"
    has_trials = comparison.tuning is not None and comparison.tuning.trials is not None
    columns = [
        Column("method", is_number=False),
        Column("trainable", "parameters"),
        Column("tuning", "all trials" if has_trials else "whole grid"),
        Column("search", "a run"),
        Column("train", "a run"),
        Column("search + train", times),
        Column("peak memory"),
        Column("latency", "ms a row"),
        Column("latency", times),
        Column("merges", is_number=False),
    ]
    rows = []
    for row in suite.rows:
        method = comparison.method(row.label)
        trainable, latency = row.trainable_parameters, row.latency
        rows.append([
            Cell(row.label, _missing(row.finished, len(row.cells))),
            Cell(NOTHING if trainable is None else f"{trainable:,.0f}"),
            Cell(seconds(row.seconds.get("tuning"))),
            Cell(seconds(row.seconds.get("search"))),
            Cell(seconds(row.seconds.get("train"))),
            Cell(ratio(row.run_seconds, first.run_seconds)),
            Cell(memory(row.peak_memory_bytes)),
            Cell(NOTHING if latency is None else f"{latency:.2f}"),
            Cell(ratio(latency, first.latency)),
            Cell(method.merging),
        ])  # fmt: skip
    return Table(columns, rows, None, [])


def _group(row: RowRecord, suite: SuiteRecord, name: str) -> Cell:
    means = {other.label: other.groups[name].mean for other in suite.rows if name in other.groups}
    if means.get(row.label) is None:
        return Cell(NOTHING)
    own = row.groups[name]
    shown = score(own.mean)
    is_best = shown == _shown_best(means.values()) and not row.flagged
    return Cell(shown, plus_minus(own.deviation), is_best=is_best)


def _score(row: RowRecord, task: str, best: str, notes: dict[str, str]) -> Cell:
    found = row.tasks.get(task)
    if found is None:
        return Cell(NOTHING)
    # The row already says how many of its cells finished.
    lost = "" if found.seeds == row.finished else _missing(found.seeds, len(row.cells))
    spread = plus_minus(found.deviation)
    return Cell(
        score(found.mean),
        f"{spread}, {lost}" if spread and lost else spread or lost,
        _mark(notes, [*found.flags, *found.notes]),
        is_best=score(found.mean) == best and not found.flags and not row.flagged,
    )


def _difference(row: RowRecord, suite: SuiteRecord) -> Cell:
    if row.label == suite.best_baseline:
        return Cell("best baseline")
    if row.difference is None:
        return Cell(NOTHING)
    return Cell(signed(row.difference.value), interval(row.difference.low, row.difference.high))


def _shown_best(values: Iterable[float | None]) -> str:
    """The highest value as shown, so that values that look equal are all marked."""
    known = [value for value in values if value is not None]
    return score(max(known)) if known else "none"


def _missing(finished: int, wanted: int) -> str:
    return "" if finished == wanted else f"{finished} of {wanted} seeds"


def _mark(notes: dict[str, str], texts: Iterable[str]) -> tuple[str, ...]:
    """The letters of footnotes by text; a new text gets the next letter."""
    return tuple(notes.setdefault(text, _letter(len(notes))) for text in texts)


def _letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    head, tail = divmod(index, 26)
    return (_letter(head - 1) if head else "") + "abcdefghijklmnopqrstuvwxyz"[tail]
