"""A study's figures: its history, importances, all trials side by side, the Pareto front."""

from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from peml.records.study import StudyRecord
from peml.reporting.style import clean_axes, color, new_figure, note, style_context
from peml.reporting.tuning.parallel import draw_parallel
from peml.reporting.tuning.scales import limit_means


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
    figure = new_figure(3.4)
    axes = figure.subplots()
    shown = [trial for trial in study.in_state("finished", "pruned") if trial.mean is not None]
    _step_of_best(axes, study)
    for state, look in _LOOKS.items():
        points = [trial for trial in shown if trial.state == state]
        if not points:
            continue
        axes.plot(
            [trial.number for trial in points],
            [trial.mean or 0.0 for trial in points],
            label=f"{state} ({len(points)})",
            **look,
        )
    low = limit_means(axes, shown)
    failed = study.in_state("failed")
    if failed:
        axes.plot(
            [trial.number for trial in failed],
            [low] * len(failed),
            marker="x",
            linestyle="none",
            color=color("alarm"),
            label=f"failed ({len(failed)})",
        )
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
    figure = new_figure(0.32 * len(names) + 0.9)
    axes = figure.subplots()
    shares = [100 * study.importance[name] for name in names]
    axes.barh(range(len(names)), shares, height=0.6, color=color("accent"))
    for place, share in enumerate(shares):
        note(axes, f"{share:.0f} %", (share, place), fontsize=9, color=color("ink"))
    axes.set_yticks(range(len(names)), names, color=color("ink"))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(shares) * 1.12 + 1)
    axes.set_xlabel("share of the variance of the development mean, %")
    clean_axes(axes, grid="x")
    return figure


@style_context()
def draw_front(study: StudyRecord) -> Figure:
    """Development mean against the second objective, with the Pareto front."""
    second = study.objectives[1]
    figure = new_figure(3.8)
    axes = figure.subplots()
    rest = [t for t in study.in_state("finished") if t.number not in study.best]
    front = study.front()
    for trials, look in (
        (rest, _LOOKS["pruned"]),
        (front, {**_LOOKS["finished"], "color": color("warm")}),
    ):
        axes.plot(
            [trial.objectives[1] or 0.0 for trial in trials],
            [trial.mean or 0.0 for trial in trials],
            label="Pareto front" if trials is front else "other trials",
            **look,
        )
    axes.step(
        [trial.objectives[1] or 0.0 for trial in front],
        [trial.mean or 0.0 for trial in front],
        where="pre",
        color=color("warm"),
        linewidth=1.2,
    )
    for trial in front:
        point = (trial.objectives[1] or 0.0, trial.mean or 0.0)
        note(axes, str(trial.number), point, va="bottom", color=color("ink"))
    limit_means(axes, [*rest, *front], always=front)
    axes.set_xlabel(second.title)
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.set_ylabel("development mean")
    clean_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, handletextpad=0.3)
    return figure


def _count(value: float, _: object) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
