"""All trials of a study side by side: parallel coordinates."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peml.records.study import StudyRecord, TrialRecord
from peml.reporting.style import Look, clean_axes, color, new_axes, note, style_context

MOST_AXES = 8
"""Parameters that are drawn, the most important ones."""

_HIDDEN_SHARE = 0.35  # of the trials, the lowest; failed ones would press the others together


@style_context()
def draw_parallel(study: StudyRecord) -> Figure:
    """One line per trial from its parameters to its mean; darker lines are better."""
    paths = sorted(study.space, key=lambda path: -study.importance.get(path, 0.0))[:MOST_AXES]
    trials = [trial for trial in study.in_state("finished") if trial.mean is not None]
    trials.sort(key=lambda trial: trial.mean or 0.0)
    figure, axes = new_axes(4.2)
    columns = [_scale(study, path, trials) for path in paths]
    means = [trial.mean or 0.0 for trial in trials]
    low = readable_low(means)
    span = max(means[-1] - low, 1e-9)
    for rank, trial in enumerate(trials):
        heights = [placed[rank] for placed, _ in columns]
        heights.append(max(0.0, (means[rank] - low) / span))
        is_best = trial.number == study.best[0]
        axes.plot(
            range(len(heights)),
            heights,
            color=color("warm" if is_best else "accent"),
            linewidth=2.2 if is_best else 1.1,
            alpha=1.0 if is_best else 0.2 + 0.6 * (rank / len(trials)) ** 2,
            zorder=3 if is_best else 2,
        )
    for place, (_, ticks) in enumerate(columns):
        _draw_axis(axes, place, ticks)
    less = "\u2264 " if means[0] < low else ""
    _draw_axis(axes, len(columns), [(0.0, f"{less}{low:.3f}"), (1.0, f"{low + span:.3f}")])
    titles = [*("\n.".join(path.rsplit(".", 1)) for path in paths), "development\nmean"]
    axes.set_xticks(range(len(titles)), titles, color=color("ink"), fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(columns) + 0.45)
    axes.set_ylim(-0.06, 1.06)
    clean_axes(axes, grid="none")
    axes.spines["bottom"].set_visible(False)
    return figure


def _draw_axis(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(place, color=color("line"), linewidth=1, zorder=1)
    for height, text in ticks:
        box: Look = {"facecolor": color("paper"), "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        note(axes, text, (place, height), 4, fontsize=8, bbox=box, zorder=4)


def _scale(
    study: StudyRecord, path: str, trials: Sequence[TrialRecord]
) -> tuple[list[float], list[tuple[float, str]]]:
    """The heights (0 to 1) of trials' values on a parameter's axis; heights and labels of ticks."""
    space, values = study.space[path], [trial.values[path] for trial in trials]
    if space.choices is not None:
        choices = [str(choice) for choice in space.choices]
        last = max(1, len(choices) - 1)
        ticks = [(number / last, choice[:14]) for number, choice in enumerate(choices)]
        return [choices.index(str(value)) / last for value in values], ticks
    numbers = [float(value) for value in values]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [0.5] * len(numbers), [(0.5, f"{low:.3g}")]
    measure = math.log if space.log else float
    span = measure(high) - measure(low)
    heights = [(measure(number) - measure(low)) / span for number in numbers]
    return heights, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]


def readable_low(values: Sequence[float]) -> float:
    """The lowest value to show: the minimum, unless a few trials collapsed far below the rest."""
    ordered = sorted(values)
    middle = ordered[int(_HIDDEN_SHARE * len(ordered))]
    span = max(ordered[-1] - middle, 0.01)
    return next(value for value in ordered if value >= middle - 2 * span)
