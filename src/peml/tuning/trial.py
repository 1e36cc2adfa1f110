"""Records of a trial that was drawn, and of how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """A trial to run.

    `number` counts from 0, in the order of drawing; `values` are the drawn ones, by path into the
    run config.
    """

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """The cost of a trial.

    `seconds` are those of all phases of its run, `tokens` those it was trained on; `parameters` is
    the number of trained ones, None if unknown.
    """

    seconds: float
    tokens: int
    parameters: int | None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    A finished trial has `objectives`, in the order of the study's; a failed one has a `reason`.
    """

    number: int
    state: Literal["finished", "pruned", "failed"]
    spent: Spent
    objectives: tuple[float, ...] = ()
    reason: str = ""
