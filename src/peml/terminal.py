"""Output of commands: tables that fit the terminal, and warnings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LEAST_FOLDED = 20  # characters that a folded column keeps


def open_console(**options: Any) -> Console:
    """A console that prints texts as they are: brackets are no markup, numbers have no colour."""
    return Console(markup=False, highlight=False, **options)


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Attributes:
        heading: Its first cell.
        right: Whether cells are aligned to the right, like numbers.
        drop: 0: always shown. If the terminal is too narrow, the column with the highest number
            is left out first.
        fold: Whether a cell may take several lines.
    """

    heading: str
    right: bool = False
    drop: int = 0
    fold: bool = False


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
) -> None:
    """Prints a table; if it is too wide, columns are left out before a name is broken.

    An empty row draws a line.
    """
    lines = [list(row) for row in rows]
    shown = list(range(len(columns)))
    while _width(columns, lines, shown) > console.width:
        number = max(shown, key=lambda each: columns[each].drop)
        if not columns[number].drop:
            break  # names are broken after all
        shown.remove(number)
    fits = _width(columns, lines, shown) <= console.width
    table = Table(title=Text(title) if title else None)
    for column in (columns[number] for number in shown):
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=fits and not column.fold,
        )
    for line in lines:
        if line:
            table.add_row(*(Text(line[number]) for number in shown))
        else:
            table.add_section()
    console.print(table)
    left_out = [each.heading for number, each in enumerate(columns) if number not in shown]
    if left_out:
        said = f"left out, the terminal is too narrow: {', '.join(left_out)}"
        console.print(said, style="dim", highlight=False, markup=False)


def _width(columns: Sequence[Column], lines: list[list[str]], shown: list[int]) -> int:
    """The width in characters of the shown columns, with their borders."""
    total = 3 * len(shown) + 1
    for number in shown:
        cells = [columns[number].heading, *(line[number] for line in lines if line)]
        widest = max(cell_len(part) for cell in cells for part in cell.split("\n"))
        total += min(widest, _LEAST_FOLDED) if columns[number].fold else widest
    return total


def print_warnings(texts: Iterable[str], console: Console) -> None:
    """Prints each text as a yellow line."""
    for text in texts:
        console.print(f"! {text}", style="yellow", highlight=False, markup=False)
