"""Shares of tasks that follow their development losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from peml.data.splits import spread
from peml.errors import ConfigError
from peml.settings import Settings

if TYPE_CHECKING:
    from peml.data.rows import Rows
    from peml.data.sources import TaskData


class AdaptiveSettings(Settings):
    """How strongly shares follow the development losses."""

    rate: float = Field(1.0, gt=0)
    """Step size of the exponentiated gradient. One evaluation changes the ratio of two tasks'
    shares by e^rate if one of them has learnt everything and the other nothing."""
    bound: float = Field(4.0, gt=1)
    """The factor of a task's share stays between 1 / bound and bound."""
    rows: int = Field(64, ge=1)
    """Maximum development rows per task for measuring its loss."""


class AdaptiveShares:
    """The factor of each task's share in each epoch.

    After an evaluation the factor of task t becomes

        f_t <- clip(f_t * exp(rate * (r_t - mean r)), 1 / bound, bound)

    the multiplicative update of DoReMi (arXiv 2305.10429, algorithm 1), clipped, not smoothed.
    r_t is the remaining part of the untrained model's loss, L_t / L_t(0) (GradNorm's inverse
    training rate, arXiv 1711.02257), instead of the excess over a reference model. So losses of
    different kinds are comparable. It is at most 1: a task that overfits counts like one that
    learnt nothing.

    An epoch uses the factors at its first batch; later evaluations don't change it.
    """

    def __init__(self, settings: AdaptiveSettings, tasks: int) -> None:
        self.settings = settings
        self._epochs = [[1.0] * tasks]  # of the epochs that have begun
        self._newest = [1.0] * tasks
        self._start: list[float | None] | None = None

    @property
    def started(self) -> bool:
        """Whether the untrained model's losses are known."""
        return self._start is not None

    def factors(self, epoch: int) -> list[float]:
        """The factors of an epoch, (tasks,); the newest if it hasn't begun."""
        return self._epochs[epoch] if epoch < len(self._epochs) else self._newest

    def begin_epoch(self) -> None:
        """Uses the newest factors for the next epoch."""
        self._epochs.append(self._newest)

    def adapt(self, losses: Sequence[float | None]) -> None:
        """Updates the factors with an evaluation; the first one is of the untrained model.

        `losses` are the mean development losses, finite; None for a task that isn't trained.
        """
        if self._start is None:
            self._start = list(losses)
            return
        left = [
            None if now is None or start is None else min(now / start, 1.0) if start > 0 else 0.0
            for now, start in zip(losses, self._start, strict=True)
        ]
        known = [value for value in left if value is not None]
        mean = sum(known) / len(known)
        bound, rate = self.settings.bound, self.settings.rate
        self._newest = [
            old
            if value is None
            else min(max(old * math.exp(rate * (value - mean)), 1 / bound), bound)
            for old, value in zip(self._newest, left, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All state, as JSON."""
        return {"epochs": [*self._epochs], "newest": self._newest, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state."""
        self._epochs = [list(factors) for factors in state["epochs"]]
        self._newest, self._start = list(state["newest"]), state["start"]


def watched_rows(item: TaskData, most: int) -> Rows:
    """At most ``most`` development rows, spread over the split; none if the task has no train rows.

    Raises:
        ConfigError: The task is trained and has no development rows.
    """
    count = len(item.development)
    if len(item.train) and not count:
        raise ConfigError(
            f"batches.mixing.strategy is 'adaptive', but task {item.task.name!r} has no "
            "development rows that its loss could be measured on",
            allowed="at least one development row of each task that is trained",
            action="give the task more rows, or choose another strategy",
        )
    return item.development.select(spread(count, most if len(item.train) else 0))
