"""A study's figures: its history, importances, all trials side by side, the Pareto front."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from peml.records.study import StudyRecord, TrialRecord
from peml.reporting.style import Look, clean_axes, color, name_rows, new_axes, note, style_context
from peml.reporting.tuning.parallel import draw_parallel, readable_low


def draw_study(study: StudyRecord) -> dict[str, Figure]:
    """All figures for which there are numbers, by name."""
    finished = study.in_state("finished")
    figures = {}
    if study.in_state("finished", "pruned"):
        figures["history"] = draw_history(study)
    if study.importance:
        figures["importance"] = draw_importance(study)
    if len(finished) > 1:
        figures["parallel"] = draw_parallel(study)
    if finished and len(study.objectives) > 1:
        figures["front"] = draw_front(study)
    return figures


@style_context()
def draw_history(study: StudyRecord) -> Figure:
    """Development mean of each trial, and the best so far."""
    figure, axes = new_axes(3.4)
    shown = [trial for trial in study.in_state("finished", "pruned") if trial.mean is not None]
    _step_of_best(axes, study)
    for state, look in _LOOKS.items():
        points = [trial for trial in shown if trial.state == state]
        if points:
            numbers, means = zip(*((trial.number, trial.mean) for trial in points), strict=True)
            axes.plot(numbers, means, label=f"{state} ({len(points)})", **look)
    low = _limit_means(axes, shown)
    failed = [trial.number for trial in study.in_state("failed")]
    if failed:
        cross: Look = {"marker": "x", "linestyle": "none", "color": color("alarm")}
        axes.plot(failed, [low] * len(failed), label=f"failed ({len(failed)})", **cross)
    axes.set_xlabel("trial")
    axes.set_ylabel("development mean")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    clean_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, handletextpad=0.3)
    return figure


_DOT = {"marker": "o", "markersize": 5, "linestyle": "none"}
_LOOKS: dict[str, dict[str, Any]] = {
    "finished": {**_DOT, "color": color("accent")},
    "pruned": {**_DOT, "color": color("soft"), "markerfacecolor": color("paper")},
}


def _step_of_best(axes: Axes, study: StudyRecord) -> None:
    finished = [trial for trial in study.in_state("finished") if trial.mean is not None]
    if not finished:
        return
    places = [*(trial.number for trial in finished), study.trials[-1].number]
    best = list(accumulate((trial.mean or 0.0 for trial in finished), max))
    best.append(best[-1])
    axes.step(places, best, where="post", color=color("warm"), linewidth=1.6, label="best so far")


@style_context()
def draw_importance(study: StudyRecord) -> Figure:
    """Each parameter's share of the variance of the mean."""
    names = list(study.importance)
    figure, axes = new_axes(0.32 * len(names) + 0.9)
    shares = [100 * study.importance[name] for name in names]
    axes.barh(range(len(names)), shares, height=0.6, color=color("accent"))
    for place, share in enumerate(shares):
        note(axes, f"{share:.0f} %", (share, place), fontsize=9, color=color("ink"))
    name_rows(axes, names, 0.6)
    axes.set_xlim(0, max(shares) * 1.12 + 1)
    axes.set_xlabel("share of the variance of the development mean, %")
    clean_axes(axes, grid="x")
    return figure


@style_context()
def draw_front(study: StudyRecord) -> Figure:
    """Development mean against the second objective, with the Pareto front."""
    second = study.objectives[1]
    figure, axes = new_axes(3.8)
    rest = [t for t in study.in_state("finished") if t.number not in study.best]
    front = study.front()
    axes.plot(*_points(rest), label="other trials", **_LOOKS["pruned"])
    axes.plot(
        *_points(front), label="Pareto front", **{**_LOOKS["finished"], "color": color("warm")}
    )
    axes.step(*_points(front), where="pre", color=color("warm"), linewidth=1.2)
    for trial, x, y in zip(front, *_points(front), strict=True):
        note(axes, str(trial.number), (x, y), va="bottom", color=color("ink"))
    _limit_means(axes, [*rest, *front], always=front)
    axes.set_xlabel(second.title)
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.set_ylabel("development mean")
    clean_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, handletextpad=0.3)
    return figure


def _limit_means(
    axes: Axes, trials: Sequence[TrialRecord], always: Sequence[TrialRecord] = ()
) -> float:
    """Sets the limits of an axis of means, and notes how many trials lie below it.

    Trials in `always` are always visible. Returns a value just below the lowest mean shown.
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


def _points(trials: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
    return [t.objectives[1] or 0.0 for t in trials], [t.mean or 0.0 for t in trials]


def _count(value: float, _: object) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
