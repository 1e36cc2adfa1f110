"""What the demo's generators share: word lists, and drawing rows that are all different."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from random import Random
from typing import Any

from peml.tasks.yaml_file import read_yaml

Row = dict[str, Any]

Maker = Callable[[Random, int], Row]
"""Makes one row; the second argument counts rows, and picks the label so that all are even."""

_TRIES = 1000


@cache
def _all_words() -> dict[str, Any]:
    return read_yaml(resources.files("tests.tasks.demo") / "words.yaml")


def words(task: str) -> dict[str, Any]:
    """The word lists of one task."""
    section: dict[str, Any] = _all_words()[task]
    return section


def sentence(text: str) -> str:
    """``text`` with a capital first letter and a full stop."""
    text = text[0].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def draw_rows(make: Maker, inputs: tuple[str, ...], name: str, seed: int, count: int) -> list[Row]:
    """Draws ``count`` rows whose inputs all differ, in either order of a pair.

    Args:
        make: Makes one row.
        inputs: The row's input columns, which tell rows apart.
        name: Name of the task; each task has its own stream of random numbers.
        seed: Seed of the stream. ``Random`` hashes a text the same way in every process.
        count: Number of rows.

    Raises:
        ValueError: The generator can't make that many different rows.
    """
    random = Random(f"{name}-{seed}")
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    while len(rows) < count:
        for _ in range(_TRIES):
            row = make(random, len(rows))
            key = tuple(sorted(row[column].lower() for column in inputs))
            if key not in seen:
                break
        else:
            raise ValueError(f"demo task {name!r} has only about {len(rows)} different rows")
        seen.add(key)
        rows.append(row)
    return rows
