"""Maps a study's values to places in a figure."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from peml.records.study import StudyRecord, TrialRecord
from peml.reporting.style import color

_HIDDEN_SHARE = 0.35  # of the trials, the lowest; failed ones would press the others together


def readable_low(values: Sequence[float]) -> float:
    """The lowest value to show: the minimum, unless a few trials collapsed far below the rest."""
    ordered = sorted(values)
    middle = ordered[int(_HIDDEN_SHARE * len(ordered))]
    span = max(ordered[-1] - middle, 0.01)
    return next(value for value in ordered if value >= middle - 2 * span)


def limit_means(
    axes: Axes, trials: Sequence[TrialRecord], always: Sequence[TrialRecord] = ()
) -> float:
    """Sets the limits of an axis of means, and notes how many trials lie below it.

    Trials in `always` are always visible.

    Returns:
        A value just below the lowest mean shown.
    """
    means = [trial.mean or 0.0 for trial in trials]
    low = min([readable_low(means), *(trial.mean or 0.0 for trial in always)])
    space = 0.06 * max(max(means) - low, 0.01)
    axes.set_ylim(low - 2 * space, max(means) + space)
    below = sum(mean < low - 2 * space for mean in means)
    if below:
        axes.annotate(
            f"{below} trial{'s' if below > 1 else ''} below the axis",
            (0.01, 0.02),
            xycoords="axes fraction",
            fontsize=8,
            color=color("soft"),
        )
    return low - space


class Scale:
    """One vertical axis: maps a parameter's values to heights of 0 to 1."""

    def __init__(self, study: StudyRecord, path: str, trials: Sequence[TrialRecord]) -> None:
        self.path = path
        space = study.space[path]
        self._choices = None if space.choices is None else [str(c) for c in space.choices]
        self._log = space.log
        if self._choices is None:
            values = [float(trial.values[path]) for trial in trials]
            self._low, self._high = min(values), max(values)

    def place(self, trial: TrialRecord) -> float:
        """The height of a trial's value."""
        value = trial.values[self.path]
        if self._choices is not None:
            return self._choices.index(str(value)) / max(1, len(self._choices) - 1)
        low, high, value = self._low, self._high, float(value)
        if self._log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high == low else (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and labels."""
        if self._choices is not None:
            last = max(1, len(self._choices) - 1)
            return [(number / last, choice[:14]) for number, choice in enumerate(self._choices)]
        if self._low == self._high:
            return [(0.5, f"{self._low:.3g}")]
        return [(0.0, f"{self._low:.3g}"), (1.0, f"{self._high:.3g}")]
