"""The phases of a search: pure functions of the settings and the step."""

from peml.search.settings import SearchSettings


class Timetable:
    """The phases of a search, with temperature (T) and hardness.

    ::

        |-- warm-up --|-------- logits move --------|-- cool-down --|
        T: start        start ----anneal----> end      end
        hardness: 0     0                              0 ------> 1
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
        """Whether the decisions are updated: in every moving step, for bilevel every few steps."""
        every = self._settings.every if self._settings.optimise == "bilevel" else 1
        return self.moves(step) and (step - self.warmup_steps) % every == 0

    def turn(self, step: int) -> int:
        """Number of updates of the decisions before a step that is due."""
        return (step - self.warmup_steps) // self._settings.every

    def progress(self, step: int) -> float:
        """From 0 in the first moving step to 1 in the last; below 0 before, above 1 after."""
        moved, last = step - self.warmup_steps, self.moving_steps - 1
        return moved / last if last > 0 else float(moved >= 0)

    def temperature(self, step: int) -> float:
        """Constant in warm-up and cool-down, falling in between."""
        return self._settings.temperature.at(self.progress(step))

    def hardness(self, step: int) -> float:
        """Share of the choices in a step's weights: 0, then rising to 1 in the last step."""
        if self.cooldown_steps == 0:
            return 0.0
        return min(max((step + 1 - self.cooldown_start) / self.cooldown_steps, 0.0), 1.0)

    def picks(self, step: int, decisions: int) -> int:
        """Number of decisions made by a step under the perturbation rule; all by the last step."""
        passed = step + 1 - self.cooldown_start
        if passed <= 0 or self.cooldown_steps == 0:
            return 0
        return min(-(-passed * decisions // self.cooldown_steps), decisions)
