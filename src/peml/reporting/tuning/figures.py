"""A study's figures: its history, what mattered, all trials side by side, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from peml.reporting.style import clean_axes, color, new_figure, style_context
from peml.reporting.tuning.records import StudyRecord, TrialRecord

__all__ = ["draw_front", "draw_history", "draw_importance", "draw_parallel", "draw_study"]

_MOST_AXES = 8
_HIDDEN_SHARE = 0.35  # of the trials, the lowest; failures would press the others together


def draw_study(study: StudyRecord) -> dict[str, Figure]:
    """Every figure there are numbers for, by name."""
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


def draw_history(study: StudyRecord) -> Figure:
    """Development mean of each trial, and the best so far."""
    with style_context():
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
                [100 * (trial.mean or 0.0) for trial in points],
                label=f"{state} ({len(points)})",
                **look,
            )
        low = _readable_low([100 * (trial.mean or 0.0) for trial in shown])
        high = max(100 * (trial.mean or 0.0) for trial in shown)
        space = 0.06 * max(high - low, 1.0)
        failed = study.in_state("failed")
        if failed:
            axes.plot(
                [trial.number for trial in failed],
                [low - space] * len(failed),
                marker="x",
                linestyle="none",
                color=color("alarm"),
                label=f"failed ({len(failed)})",
            )
        axes.set_ylim(low - 2 * space, high + space)
        below = sum(100 * (trial.mean or 0.0) < low - 2 * space for trial in shown)
        if below:
            axes.annotate(
                f"{below} trial{'s' if below > 1 else ''} below the axis",
                (0.01, 0.02),
                xycoords="axes fraction",
                fontsize=8,
                color=color("soft"),
            )
        axes.set_xlabel("trial")
        axes.set_ylabel("development mean, points")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        clean_axes(axes)
        figure.legend(loc="outside right upper", frameon=False, handletextpad=0.3)
        return figure


_LOOKS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "o", "markersize": 5, "linestyle": "none", "color": color("accent")},
    "pruned": {
        "marker": "o",
        "markersize": 5,
        "linestyle": "none",
        "color": color("soft"),
        "markerfacecolor": color("paper"),
    },
}


def _step_of_best(axes: Axes, study: StudyRecord) -> None:
    finished = [trial for trial in study.in_state("finished") if trial.mean is not None]
    if not finished:
        return
    places: list[int] = []
    best: list[float] = []
    for trial in finished:
        so_far = max(100 * (trial.mean or 0.0), best[-1] if best else -math.inf)
        places.append(trial.number)
        best.append(so_far)
    places.append(study.trials[-1].number)
    best.append(best[-1])
    axes.step(places, best, where="post", color=color("warm"), linewidth=1.6, label="best so far")


def _readable_low(values: Sequence[float]) -> float:
    """The lowest value to show: all of them, unless a few collapsed far below the rest."""
    ordered = sorted(values)
    middle = ordered[int(_HIDDEN_SHARE * len(ordered))]
    span = max(ordered[-1] - middle, 1.0)
    return next(value for value in ordered if value >= middle - 2 * span)


def draw_importance(study: StudyRecord) -> Figure:
    """Share of the variance of the mean that each parameter explains."""
    names = list(study.importance)
    with style_context():
        figure = new_figure(0.32 * len(names) + 0.9)
        axes = figure.subplots()
        shares = [100 * study.importance[name] for name in names]
        axes.barh(range(len(names)), shares, height=0.6, color=color("accent"))
        for place, share in enumerate(shares):
            axes.annotate(
                f"{share:.0f} %",
                (share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(names)), names, color=color("ink"))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, max(shares) * 1.12 + 1)
        axes.set_xlabel("share of the variance of the development mean, %")
        clean_axes(axes, grid="x")
        return figure


def draw_parallel(study: StudyRecord) -> Figure:
    """A line a trial over all parameters to its mean; the darker, the better."""
    paths = sorted(study.space, key=lambda path: -study.importance.get(path, 0.0))[:_MOST_AXES]
    trials = [trial for trial in study.in_state("finished") if trial.mean is not None]
    trials.sort(key=lambda trial: trial.mean or 0.0)
    with style_context():
        figure = new_figure(4.2)
        axes = figure.subplots()
        columns = [_Scale(study, path, trials) for path in paths]
        means = [100 * (trial.mean or 0.0) for trial in trials]
        low = _readable_low(means)
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
        _draw_axis(axes, len(columns), [(0.0, f"{less}{low:.1f}"), (1.0, f"{low + span:.1f}")])
        titles = [*("\n.".join(path.rsplit(".", 1)) for path in paths), "development\nmean"]
        axes.set_xticks(range(len(titles)), titles, color=color("ink"), fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.2, len(columns) + 0.45)
        axes.set_ylim(-0.06, 1.06)
        clean_axes(axes, grid="none")
        axes.spines["bottom"].set_visible(False)
        return figure


class _Scale:
    """One vertical axis: from a parameter's values to heights of 0 to 1."""

    def __init__(self, study: StudyRecord, path: str, trials: Sequence[TrialRecord]) -> None:
        self.path = path
        space = study.space[path]
        self._choices = None if space.choices is None else [str(c) for c in space.choices]
        self._log = space.log
        if self._choices is None:
            values = [float(trial.values[path]) for trial in trials]
            self._low, self._high = min(values), max(values)

    def place(self, trial: TrialRecord) -> float:
        value = trial.values[self.path]
        if self._choices is not None:
            return self._choices.index(str(value)) / max(1, len(self._choices) - 1)
        low, high, value = self._low, self._high, float(value)
        if self._log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high == low else (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self._choices is not None:
            last = max(1, len(self._choices) - 1)
            return [(number / last, choice[:14]) for number, choice in enumerate(self._choices)]
        if self._low == self._high:
            return [(0.5, f"{self._low:.3g}")]
        return [(0.0, f"{self._low:.3g}"), (1.0, f"{self._high:.3g}")]


def _draw_axis(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(place, color=color("line"), linewidth=1, zorder=1)
    for height, text in ticks:
        axes.annotate(
            text,
            (place, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color("soft"),
            bbox={"facecolor": color("paper"), "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            zorder=4,
        )


def draw_front(study: StudyRecord) -> Figure:
    """Development mean against the second objective; the front is what nothing beats in both."""
    second = study.objectives[1]
    with style_context():
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
                [100 * (trial.mean or 0.0) for trial in trials],
                label="Pareto front" if trials is front else "other trials",
                **look,
            )
        axes.step(
            [trial.objectives[1] or 0.0 for trial in front],
            [100 * (trial.mean or 0.0) for trial in front],
            where="pre",
            color=color("warm"),
            linewidth=1.2,
        )
        for trial in front:
            axes.annotate(
                str(trial.number),
                (trial.objectives[1] or 0.0, 100 * (trial.mean or 0.0)),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axes.set_xlabel(second.title)
        axes.set_ylabel("development mean, points")
        clean_axes(axes)
        figure.legend(loc="outside right upper", frameon=False, handletextpad=0.3)
        return figure
