"""A trial: drawn, ended, and as a line of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Outcome", "Spent", "State", "Trial", "TrialRow"]

State = Literal["finished", "pruned", "failed", "running"]


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


@dataclass(frozen=True)
class TrialRow:
    """A line of the table of trials.

    Attributes:
        number: Of the trial.
        state: How it stands.
        objectives: Its values, in the order of the study's objectives; of a pruned trial the
            last development mean.
        values: By path into the run config.
        spent: Its cost; None while it runs.
        reports: Development means by percent of its steps.
        reason: Why it failed.
        driver: Id of the driver that ran it.
        place: Machine and run folder; empty while it runs.
    """

    number: int
    state: State
    objectives: tuple[float, ...]
    values: dict[str, Any]
    spent: Spent | None
    reports: dict[int, float]
    reason: str
    driver: str
    place: str
