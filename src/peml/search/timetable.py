"""What happens when in a search: a pure function of the settings and the step."""

from __future__ import annotations

from peml.search.settings import SearchSettings


class Timetable:
    """The stretches of a search, and what falls or rises in them.

    ::

        |-- warm-up --|-------- logits move --------|-- cool-down --|
        T: start        start ----anneal----> end      end
        hardness: 0     0                              0 ------> 1

    Args:
        settings: Shares of warm-up and cool-down, schedules.
        total_steps: Steps of the search.
    """

    def __init__(self, settings: SearchSettings, total_steps: int) -> None:
        self._settings = settings
        self.total_steps = total_steps
        self.warmup_steps = int(settings.warmup * total_steps)
        self.cooldown_steps = int(settings.cooldown * total_steps)

    @property
    def moving_steps(self) -> int:
        """Steps between warm-up and cool-down."""
        return self.total_steps - self.warmup_steps - self.cooldown_steps

    @property
    def cooldown_start(self) -> int:
        """First step of the cool-down."""
        return self.total_steps - self.cooldown_steps

    def moves(self, step: int) -> bool:
        """Whether the step (0-based) lies between warm-up and cool-down."""
        return self.warmup_steps <= step < self.cooldown_start

    def is_due(self, step: int) -> bool:
        """Whether it is the turn of the decisions: in every moving step, or in every so many."""
        every = self._settings.every if self._settings.optimise == "bilevel" else 1
        return self.moves(step) and (step - self.warmup_steps) % every == 0

    def turn(self, step: int) -> int:
        """How many turns of the decisions came before a step that is due."""
        return (step - self.warmup_steps) // self._settings.every

    def progress(self, step: int) -> float:
        """From 0 in the first moving step to 1 in the last; outside below 0 or above 1."""
        into, last = step - self.warmup_steps, self.moving_steps - 1
        return into / last if last > 0 else float(into >= 0)

    def temperature(self, step: int) -> float:
        """It stands, falls while the logits move, and stands again."""
        return self._settings.temperature.at(self.progress(step))

    def hardness(self, step: int) -> float:
        """Share of the chosen network in the weights of a step: 0, then up to 1 in the last."""
        if self.cooldown_steps == 0:
            return 0.0
        return min(max((step + 1 - self.cooldown_start) / self.cooldown_steps, 0.0), 1.0)

    def picks(self, step: int, decisions: int) -> int:
        """Decisions that are made by a step under the perturbation rule, all in the last."""
        passed = step + 1 - self.cooldown_start
        if passed <= 0 or self.cooldown_steps == 0:
            return 0
        return min(-(-passed * decisions // self.cooldown_steps), decisions)
