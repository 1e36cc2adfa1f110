"""Printed tables leave columns out before they break a name."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from peml.terminal import Column, print_table

_COLUMNS = [
    Column("task"),
    Column("type", drop=2),
    Column("value", right=True),
    Column("interval", right=True, drop=1),
    Column("description", fold=True),
]
_ROWS = [
    [
        "paraphrase-of-questions",
        "pair-classification",
        "0.742",
        "0.66 to 0.82",
        "Do they agree? " * 4,
    ],
    [],
    ["mean", "", "0.895", "[0.8] to :x:", ""],
]


def _printed(width: int, columns: list[Column] = _COLUMNS) -> str:
    console = Console(file=StringIO(), width=width)
    print_table(console, columns, _ROWS, title="[peml] on minilm")
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_a_wide_terminal_gets_every_column_as_it_is() -> None:
    printed = _printed(160)
    for text in (*_ROWS[0][:4], _ROWS[0][4].strip(), *_ROWS[2][:4], "[peml] on minilm"):
        assert text in printed
    assert "left out" not in printed


def test_columns_go_in_their_order_and_are_named_below() -> None:
    printed = _printed(90)
    assert "pair-classification" not in printed
    assert "0.66 to 0.82" in printed
    assert printed.rstrip().endswith("left out, the terminal is too narrow: type")
    printed = _printed(70)
    assert "0.66 to 0.82" not in printed
    assert "paraphrase-of-questions" in printed
    assert printed.rstrip().endswith("too narrow: type, interval")


def test_a_folded_column_takes_lines_before_another_goes() -> None:
    printed = _printed(100)
    assert "left out" not in printed
    assert "pair-classification" in printed
    assert "Do they agree? Do they agree? Do they agree? Do they agree?" not in printed


def test_what_may_not_be_left_out_is_folded_and_never_cut() -> None:
    printed = _printed(30, [Column(column.heading) for column in _COLUMNS])
    assert "left out" not in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert max(map(len, printed.splitlines())) <= 30
