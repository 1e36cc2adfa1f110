"""A comparison's figures: score against cost, differences to the best baseline, ranks."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray
from scipy.stats import rankdata

from peml.records.comparison import ComparisonRecord, IntervalRecord, RowRecord, SuiteRecord
from peml.reporting.numbers import signed
from peml.reporting.style import (
    SERIES,
    Look,
    beside,
    clean_axes,
    color,
    name_rows,
    new_axes,
    new_figure,
    note,
    style_context,
)

_MARKERS = "os^DvPX<>ph*"
_PANELS_A_ROW = 4
_LEAST_SPAN = 0.01  # less would blow up differences that don't matter
_DASHED: dict[str, Any] = {"color": color("soft"), "linewidth": 1, "linestyle": (0, (3, 2))}
_SCALE = 3.0  # the axis of differences, over the median end of an interval
_LOG_FROM = 8.0  # largest over smallest value, from which an axis is logarithmic


def draw_comparison(comparison: ComparisonRecord, suite: SuiteRecord) -> dict[str, Figure]:
    """All figures for which the suite has numbers, by name."""
    figures = {}
    if suite.ranked():
        figures["cost"] = draw_cost(comparison, suite)
    if any(_against_baseline(suite)):
        figures["differences"] = draw_differences(comparison, suite)
    if len(suite.ranked()) > 1:
        figures["ranks"] = draw_ranks(comparison, suite)
    return figures


def source_line(comparison: ComparisonRecord, suite: SuiteRecord) -> str:
    """The pattern of the run folders behind a suite's figures, and the missing cells."""
    seeds = ", ".join(map(str, comparison.seeds))
    lost = [
        f"{row.label}-seed{cell.seed}"
        for row in suite.rows
        for cell in row.cells
        if cell.status != "finished"
    ]
    pattern = f"cells/{suite.name}/METHOD-seed{{{seeds}}}"
    return f"runs: {pattern}" + (f" without {', '.join(lost)}" if lost else "")


@style_context()
def draw_cost(comparison: ComparisonRecord, suite: SuiteRecord) -> Figure:
    """Mean score against seconds of one run, and against trainable parameters."""
    figure = new_figure(max(3.5, 0.21 * len(suite.rows) + 1.3))
    left, right = figure.subplots(1, 2, sharey=True)
    unit, length = _time_unit(suite)
    panels: list[tuple[Axes, str, float, Callable[[RowRecord], float | None]]] = [
        (left, f"search and training of one run, {unit}", length, lambda row: row.run_seconds),
        (right, "trainable parameters", 1.0, lambda row: row.trainable_parameters),
    ]
    for axes, label, scale, read in panels:
        shown: list[float] = []
        for index, row in enumerate(suite.rows):
            x = read(row)
            if x is None or row.mean is None:
                continue
            shown.append(x / scale)
            look: Look = {"elinewidth": 1.2, **_look(index, _is_flagged(row))}
            axes.errorbar(x / scale, row.mean, yerr=row.deviation, **look)
        axes.set_xlabel(label)
        clean_axes(axes)
        axes.grid(axis="x", color=color("line"), linewidth=0.6, alpha=0.7)
        _scale(axes, shown)
    left.set_ylabel("mean score")
    _draw_majority([left, right], suite)
    _name_methods(figure, suite)
    _sign(figure, comparison, suite)
    return figure


def _draw_majority(panels: Sequence[Axes], suite: SuiteRecord) -> None:
    """Draws the majority baseline; at the edge if it lies far below every method."""
    if suite.majority_mean is None:
        return
    means = [row.mean for row in suite.ranked() if row.mean is not None]
    low, high = panels[0].get_ylim()
    span = max(high - low, _LEAST_SPAN)
    majority = suite.majority_mean
    if majority >= min(means) - span:
        for axes in panels:
            axes.axhline(majority, **_DASHED)
        return
    panels[0].set_ylim(low - 0.12 * span, high)
    edge = low - 0.09 * span
    for axes in panels:
        axes.axhline(edge, **_DASHED)
    look: Look = {"xycoords": ("axes fraction", "data"), "va": "bottom", "fontsize": 8}
    note(panels[0], f"majority {majority:.3f}, off the scale", (0.02, edge), **look)


@style_context()
def draw_differences(comparison: ComparisonRecord, suite: SuiteRecord) -> Figure:
    """One panel per method: its difference to the best baseline on each task, with intervals."""
    tasks = [task.name for task in suite.tasks]
    shown = [
        (index, row, found)
        for index, (row, found) in enumerate(zip(suite.rows, _against_baseline(suite), strict=True))
        if found
    ]
    limit = _limit([pair for _, _, found in shown for pair in found.values()])
    columns = min(_PANELS_A_ROW, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = new_figure(lines * (0.2 * len(tasks) + 1.05) + 0.35)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in grid[len(shown) :]:
        axes.remove()
    for position, (index, row, found) in enumerate(shown):
        flagged = {name: bool(score.flags) for name, score in row.tasks.items()}
        flagged["mean"] = row.flagged
        axes = grid[position]
        axes.axvline(0, color=color("soft"), linewidth=1)
        axes.axhline(0.5, color=color("line"), linewidth=0.8)
        for place, name in enumerate(["mean", *tasks]):
            if name in found:
                look = _look(index, flagged.get(name, False))
                _interval(axes, place, found[name], limit, look)
        axes.set_title(_label(row))
        axes.set_xlim(-1.06 * limit, 1.06 * limit)
        name_rows(axes, ["mean", *tasks], 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "\u2212") if x else "0")
        )
        last_of_column = len(shown) - position <= columns
        axes.tick_params(labelbottom=last_of_column)
        clean_axes(axes, grid="x")
        if last_of_column:
            axes.set_xlabel(f"difference to {suite.best_baseline}")
    _sign(figure, comparison, suite)
    return figure


@style_context()
def draw_ranks(comparison: ComparisonRecord, suite: SuiteRecord) -> Figure:
    """One row per method, best mean rank on top: its rank on each task, and the mean."""
    ranks = rank_tasks(suite)  # (methods, tasks)
    means = ranks.mean(axis=1)
    order = np.argsort(means, kind="stable")
    figure, axes = new_axes(0.34 * len(order) + 1.0)
    for place, index in enumerate(order):
        row = suite.rows[index]
        look = _look(int(index), _is_flagged(row))
        values, counts = np.unique(ranks[index], return_counts=True)
        pale: Look = {"color": look["color"], "alpha": 0.45, "linewidth": 0}
        axes.scatter(values, np.full(len(values), place), s=26 * counts**0.8, **pale)
        axes.plot(means[index], place, **{**look, "markersize": 9})
        beside(axes, place, f"{means[index]:.2f}", fontweight="bold")
    names = [_label(suite.rows[index]) for index in order]
    name_rows(axes, names, 0.6)
    axes.set_xlim(0.6, len(order) + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("rank, 1 is best; small dots: tasks, larger where several agree")
    clean_axes(axes, grid="x")
    _sign(figure, comparison, suite)
    return figure


def rank_tasks(suite: SuiteRecord) -> NDArray[np.float64]:
    """Rank of each method on each task, (methods, tasks); ties share one, no score ranks last."""

    def mean(row: RowRecord, task: str) -> float:
        score = row.tasks.get(task)
        return -math.inf if score is None or score.mean is None else score.mean

    table = np.array([[mean(row, task.name) for task in suite.tasks] for row in suite.rows])
    ranked: NDArray[np.float64] = rankdata(-table, axis=0)
    return ranked


def _against_baseline(suite: SuiteRecord) -> list[dict[str, IntervalRecord]]:
    """Each method's differences to the best baseline: the mean's, and by task."""
    found = []
    for row in suite.rows:
        difference = None if row.label == suite.best_baseline else row.difference
        pairs = {"mean": difference, **difference.tasks} if difference else {}
        found.append({name: pair for name, pair in pairs.items() if pair.value is not None})
    return found


def _is_flagged(row: RowRecord) -> bool:
    return row.flagged or any(score.flags for score in row.tasks.values())


def _label(row: RowRecord) -> str:
    return f"{row.label} (flagged)" if _is_flagged(row) else row.label


def _look(index: int, flagged: bool) -> dict[str, Any]:
    """A method's color and shape, the same in every figure; hollow if it is flagged."""
    tone = color(SERIES[index % len(SERIES)])
    return {
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 6.5,
        "linestyle": "none",
        "color": tone,
        "markeredgecolor": tone,
        "markeredgewidth": 1.3,
        "markerfacecolor": color("paper") if flagged else tone,
    }


def _limit(pairs: Sequence[IntervalRecord]) -> float:
    """Half the width of the axis of differences.

    It fits ordinary intervals: a method that collapsed must not press all others onto zero.
    """
    ends = [end for pair in pairs for end in (pair.value, pair.low, pair.high) if end is not None]
    return max(_LEAST_SPAN, _SCALE * float(np.median(np.abs(ends))))


def _interval(
    axes: Axes, place: int, found: IntervalRecord, limit: float, look: dict[str, Any]
) -> None:
    value = found.value or 0.0
    if found.low is not None and found.high is not None:
        low, high = np.clip([found.low, found.high], -limit, limit)
        axes.plot([low, high], [place, place], color=look["color"], linewidth=1.4)
    if abs(value) <= limit:
        axes.plot(value, place, **{**look, "markersize": 5.5})
        return
    edge, shift = math.copysign(limit, value), -math.copysign(7, value)
    marker, side = (">", "right") if value > 0 else ("<", "left")
    axes.plot(edge, place, **{**look, "marker": marker, "markersize": 6})
    box: Look = {"facecolor": color("paper"), "edgecolor": "none", "pad": 0.5}
    note(axes, signed(found.value), (edge, place), shift, ha=side, fontsize=8, bbox=box)


def _time_unit(suite: SuiteRecord) -> tuple[str, float]:
    """The unit that suits the longest run, and its length in seconds."""
    longest = max((row.run_seconds or 0.0 for row in suite.rows), default=0.0)
    if longest >= 7200:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest >= 180 else ("seconds", 1.0)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Makes an axis logarithmic if values span a lot; else adds a margin of at least a tenth."""
    if not values:
        return
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.5, high * 1.5)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        space = max(0.1 * (high - low), 0.1 * high, 1e-9)
        axes.set_xlim(max(0.0, low - space) if low > 0 else -space, high + space)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _count(x)))


def _count(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _name_methods(figure: Figure, suite: SuiteRecord) -> None:
    handles = []
    for index, row in enumerate(suite.rows):
        label = _label(row) + (" (no score)" if row.mean is None else "")
        handles.append(Line2D([], [], label=label, **_look(index, _is_flagged(row))))
    if suite.majority_mean is not None:
        handles.append(Line2D([], [], label="majority", **_DASHED))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handletextpad=0.3)


def _sign(figure: Figure, comparison: ComparisonRecord, suite: SuiteRecord) -> None:
    """Writes the source of the numbers below the figure, in lines that fit."""
    text = f"{comparison.name}, {source_line(comparison, suite)}"
    lines = textwrap.wrap(text, width=150, break_on_hyphens=False)
    figure.supxlabel(
        "\n".join(lines), x=0.01, ha="left", fontsize=7.5, color=color("soft"), linespacing=1.4
    )
