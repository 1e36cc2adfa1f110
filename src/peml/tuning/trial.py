"""Records of a trial that was drawn, and of how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """A trial to run.

    Attributes:
        number: From 0, in the order of drawing.
        values: The drawn values, by path into the run config.
    """

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """The cost of a trial.

    Attributes:
        seconds: Of all phases of its run.
        tokens: Tokens it was trained on.
        parameters: Number of trained parameters; None if unknown.
    """

    seconds: float
    tokens: int
    parameters: int | None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: The trial's number.
        state: How it ended.
        spent: Its cost.
        objectives: Values of a finished trial, in the order of the study's objectives.
        reason: Why a failed trial failed.
    """

    number: int
    state: Literal["finished", "pruned", "failed"]
    spent: Spent
    objectives: tuple[float, ...] = ()
    reason: str = ""
