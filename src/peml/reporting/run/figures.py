"""The figures of a run's report: scores and curves; others are in their own modules.

Every ``draw_`` function takes a :class:`~peml.reporting.run.results.RunRecord` and returns a
Matplotlib figure that can be used alone. Nothing here touches pyplot or its global state.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from peml.reporting.run.balancing import count_drawn, draw_balancing, draw_mixture, has_balancing
from peml.reporting.run.decisions import draw_decisions, draw_gates, gate_names, open_names
from peml.reporting.run.diagram import draw_network
from peml.reporting.run.results import History, RunRecord
from peml.reporting.style import (
    Look,
    clean_axes,
    color,
    name_rows,
    new_axes,
    note,
    panels,
    style_context,
)
from peml.reporting.summary import part_title

Values = NDArray[np.float64]

_PANELS_A_ROW = 4
_STRETCHES = 750  # a curve is at most twice as many points, whatever the number of steps
_PART_MARKS = (("^", "warm"), ("s", "leaf"), ("D", "s8"), ("v", "s4"))
_LEAST_SPAN = 0.1  # of a score's axis: with less, noise would look like progress


def draw_figures(run: RunRecord) -> dict[str, Figure]:
    """Draws every figure for which the run has data, by name."""
    history = run.history
    drawings: list[tuple[str, bool, Callable[[RunRecord], Figure]]] = [
        ("scores", True, draw_scores),
        ("validation", bool(history.development), draw_validation),
        ("loss", bool(history.steps), draw_loss),
        ("mixture", bool(count_drawn(history)), draw_mixture),
        ("balancing", has_balancing(history), draw_balancing),
        ("decisions", bool(open_names(history)), draw_decisions),
        ("gates", bool(gate_names(history)), draw_gates),
    ]
    figures = {name: draw(run) for name, applies, draw in drawings if applies}
    if run.genotype is not None:
        figures["network"] = draw_network(run.genotype)
    return figures


@style_context()
def draw_scores(run: RunRecord) -> Figure:
    """One row per task on the reported split: full score, scores without a part, majority."""
    tasks = run.results.tasks
    marks = _score_marks(run)
    figure, axes = new_axes(0.34 * len(tasks) + 0.85)
    for row, task in enumerate(tasks.values()):
        shown = [values[row] for values, *_ in marks if math.isfinite(values[row])]
        if shown:
            axes.plot([min(shown), max(shown)], [row, row], color=color("line"), linewidth=2)
        if not math.isfinite(task.value):
            where: Look = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "center"}
            axes.text(0.5, row, "no finite score", color=color("alarm"), **where)
    for values, label, marker, tone in marks:
        size, edge = (11, 2) if marker == "|" else (6.5, 0)
        look: Look = {"marker": marker, "markersize": size, "markeredgewidth": edge}
        look |= {"linestyle": "none", "color": color(tone)}
        axes.plot(values, range(len(tasks)), label=label, **look)
    name_rows(axes, tasks, 0.5)
    axes.margins(x=0.03)
    axes.set_xlabel("score on the reported split (each task's headline metric)")
    clean_axes(axes, grid="x")
    figure.legend(loc="outside upper left", ncols=len(marks), frameon=False, handletextpad=0.3)
    return figure


def _score_marks(run: RunRecord) -> list[tuple[list[float], str, str, str]]:
    """The marks in the tasks' rows: a number per task (NaN: none), its label, marker and color."""
    tasks = run.results.tasks.values()

    def numbers(values: Iterable[float | None]) -> list[float]:
        return [v if v is not None and math.isfinite(v) else math.nan for v in values]

    marks = [(numbers(task.majority for task in tasks), "majority", "|", "soft")]
    for index, part in enumerate(run.results.parts):
        without = numbers(task.without.get(part) for task in tasks)
        marks.append((without, f"{part_title(part)} off", *_PART_MARKS[index % len(_PART_MARKS)]))
    return [*marks, (numbers(task.value for task in tasks), "trained", "o", "accent")]


@style_context()
def draw_validation(run: RunRecord) -> Figure:
    """Development scores over steps: a panel for the mean, then one per task."""
    records = run.history.development
    steps = [record.step for record in records]
    tasks = list(dict.fromkeys(name for record in records for name in record.tasks))
    means = [record.mean for record in records]
    curves = [("mean", means, math.nan)]
    for name in tasks:
        result = run.results.tasks.get(name)
        values = [record.tasks.get(name, math.nan) for record in records]
        curves.append((name, values, math.nan if result is None else result.majority))
    figure, grid = _panels(len(curves))
    for index, axes in enumerate(grid):
        name, values, majority = curves[index]
        _curve(axes, name, steps, values, "accent" if index else "ink")
        if math.isfinite(majority):
            axes.axhline(majority, color=color("soft"), linewidth=1, linestyle=(0, (3, 2)))
        _open_up(axes)
        _mark_phases(axes, run.history, named=False)
        if len(curves) - index <= _PANELS_A_ROW:
            axes.set_xlabel("step")
    return figure


@style_context()
def draw_loss(run: RunRecord) -> Figure:
    """Training loss over steps: every logged step in a pale tone, and a running mean."""
    steps = np.array([record.step for record in run.history.steps])
    losses = np.array([record.loss for record in run.history.steps], dtype=float)
    figure, axes = new_axes(2.6)
    shown = _extremes(losses)
    axes.plot(steps[shown], losses[shown], color=color("accent"), linewidth=0.7, alpha=0.35)
    axes.plot(steps, _running_mean(losses), color=color("accent"), linewidth=2)
    broken = steps[~np.isfinite(losses)]
    if broken.size:
        tone, low = color("alarm"), axes.get_xaxis_transform()
        title = f"{broken.size} steps without a finite loss, from step {broken[0]}"
        axes.set_title(title, color=tone)
        axes.plot(broken, [0.02] * broken.size, "x", color=tone, markersize=5, transform=low)
    _mark_phases(axes, run.history, named=True)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.margins(x=0.01)
    clean_axes(axes)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    margins = (0.42, 0.4, 0.25, 0.42)
    figure, grid = panels(count, _PANELS_A_ROW, 1.8, margins, shares_x=True)
    for index, axes in enumerate(grid):
        clean_axes(axes)
        axes.tick_params(labelbottom=count - index <= _PANELS_A_ROW)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure, grid


def _curve(axes: Axes, name: str, steps: Sequence[int], values: Sequence[float], tone: str) -> None:
    """Draws a line with its last value at the end; says where values stop being finite."""
    marker = "o" if len(steps) < 8 else None
    axes.plot(steps, values, color=color(tone), linewidth=1.8, marker=marker, markersize=4)
    finite = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    if finite:
        last = finite[-1]
        axes.plot(*last, "o", color=color(tone), markersize=3.5, clip_on=False)
        note(axes, f"{last[1]:.3f}", last, color=color(tone), annotation_clip=False)
    axes.set_title(name)
    if len(finite) < len(steps):
        first = next(s for s, v in zip(steps, values, strict=True) if not math.isfinite(v))
        axes.set_title(f"{name}, not finite from {first}", color=color("alarm"))
    axes.set_xlim(min(steps) - (len(steps) == 1), max(steps) + (len(steps) == 1))


def _open_up(axes: Axes) -> None:
    """Widens a y axis so that small noise doesn't fill the height of the panel."""
    low, high = axes.get_ylim()
    missing = _LEAST_SPAN - (high - low)
    if missing > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)


def _mark_phases(axes: Axes, history: History, *, named: bool) -> None:
    """Shades every other phase; if ``named``, writes the names that fit."""
    phases = history.phases()
    if len(phases) < 2:
        return
    whole = sum(last - first + 1 for first, last in phases.values())
    for index, (name, (first, last)) in enumerate(phases.items()):
        if index % 2 == 0:
            axes.axvspan(first, last, color=color("shade"), linewidth=0, zorder=-2)
        if named and (last - first) / whole > 0.2:
            look: Look = {"color": color("soft"), "fontsize": 8.5, "fontstyle": "italic"}
            middle, above = (first + last) / 2, axes.get_xaxis_transform()
            axes.text(middle, 0.93, name, transform=above, ha="center", **look)


def _running_mean(values: Values) -> Values:
    """Mean over a centered window of 1/25 of the run; NaN where a value is not finite."""
    half = max(1, len(values) // 50)
    finite = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0.0], np.where(finite, values, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], finite]))
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    count = np.maximum(counts[high] - counts[low], 1)
    return np.where(finite, (sums[high] - sums[low]) / count, np.nan)


def _extremes(values: Values) -> NDArray[np.int64]:
    """Indices that preserve the look of a long curve: the extremes of each stretch."""
    if len(values) <= 2 * _STRETCHES:
        return np.arange(len(values))
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), _STRETCHES):
        finite = stretch[np.isfinite(values[stretch])]
        if finite.size:
            kept |= {int(finite[pick(values[finite])]) for pick in (np.argmin, np.argmax)}
    return np.array(sorted(kept), dtype=np.int64)
