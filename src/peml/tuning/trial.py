"""A trial: drawn and ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """A trial that is to run.

    Attributes:
        number: From 0, in the order of the draws.
        values: By path into the run config.
    """

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """What a trial has cost.

    Attributes:
        seconds: Of its run, all phases.
        tokens: It has trained on.
        parameters: That it trained; None if that isn't known.
    """

    seconds: float
    tokens: int
    parameters: int | None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: Of the trial.
        state: What became of it.
        spent: Its cost.
        objectives: Of a finished one, in the order of the study's objectives.
        reason: Of a failed one.
    """

    number: int
    state: Literal["finished", "pruned", "failed"]
    spent: Spent
    objectives: tuple[float, ...] = ()
    reason: str = ""
