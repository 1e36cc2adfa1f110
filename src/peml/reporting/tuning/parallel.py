"""All trials of a study side by side: parallel coordinates."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peml.records.study import StudyRecord
from peml.reporting.style import Look, clean_axes, color, new_axes, note, style_context
from peml.reporting.tuning.scales import Scale, readable_low

MOST_AXES = 8
"""Parameters that are drawn, the most important ones."""


@style_context()
def draw_parallel(study: StudyRecord) -> Figure:
    """One line per trial from its parameters to its mean; darker lines are better."""
    paths = sorted(study.space, key=lambda path: -study.importance.get(path, 0.0))[:MOST_AXES]
    trials = [trial for trial in study.in_state("finished") if trial.mean is not None]
    trials.sort(key=lambda trial: trial.mean or 0.0)
    figure, axes = new_axes(4.2)
    columns = [Scale(study, path, trials) for path in paths]
    means = [trial.mean or 0.0 for trial in trials]
    low = readable_low(means)
    span = max(means[-1] - low, 1e-9)
    for rank, trial in enumerate(trials):
        heights = [column.place(trial) for column in columns]
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
    for place, column in enumerate(columns):
        _draw_axis(axes, place, column.ticks())
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
