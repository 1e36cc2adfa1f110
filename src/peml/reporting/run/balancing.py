"""The figures of each task's part in training: rows, loss weights, shares."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peml.reporting.run.results import History, RunRecord
from peml.reporting.style import (
    SERIES,
    clean_axes,
    color,
    new_axes,
    new_figure,
    note,
    style_context,
)

_Panel = tuple[str, Sequence[tuple[int, dict[str, float]]]]

_LINES = ("-", "--", ":", "-.")


def count_drawn(history: History) -> dict[str, int]:
    """The number of rows of each task in the logged steps; empty if the log doesn't have it."""
    drawn: dict[str, int] = {}
    for record in history.steps:
        for name, rows in record.task_rows.items():
            drawn[name] = drawn.get(name, 0) + rows
    return drawn


@style_context()
def draw_mixture(run: RunRecord) -> Figure:
    """One bar per task: rows drawn, their share, and how often each train row was seen."""
    counted = count_drawn(run.history)
    planned = {task.name: task.train for task in run.plan.tasks}
    names = [name for name in planned if name in counted]
    total = sum(counted.values())
    figure, axes = new_axes(0.3 * len(names) + 0.85)
    axes.barh(names, [counted[name] for name in names], height=0.6, color=color("accent"))
    for row, name in enumerate(names):
        passes = counted[name] / planned[name]
        text = f"{100 * counted[name] / total:.1f} %, each row {passes:.2g} times"
        note(axes, text, (counted[name], row))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.3)
    axes.set_xlabel("rows drawn by the logged training steps")
    clean_axes(axes, grid="x")
    return figure


def has_balancing(history: History) -> bool:
    """Whether loss weights or shares changed."""
    return bool(_panels(history))


@style_context()
def draw_balancing(run: RunRecord) -> Figure:
    """One line per task over the steps: the weight of its loss, the factor of its share."""
    panels = _panels(run.history)
    names = [task.name for task in run.plan.tasks]
    figure = new_figure(2.3 * len(panels) + 0.2 * (len(names) // 4 + 1))
    grid = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel, names)
    grid[-1].set_xlabel("step")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    return figure


def _panels(history: History) -> list[_Panel]:
    weights = [(record.step, record.task_weights) for record in history.steps]
    weights = [(step, values) for step, values in weights if values]
    factors = [(record.step, record.factors) for record in history.mixing]
    panels: list[_Panel] = [("weight of the loss", weights), ("factor of the share", factors)]
    return [panel for panel in panels if panel[1]]


def _draw_panel(axes: Axes, panel: _Panel, names: Sequence[str]) -> None:
    label, values = panel
    steps = [step for step, _ in values]
    for place, name in enumerate(names):
        axes.plot(
            steps,
            [weights.get(name, math.nan) for _, weights in values],
            color=color(SERIES[place % len(SERIES)]),
            linestyle=_LINES[place // len(SERIES) % len(_LINES)],
            label=name,
        )
    axes.axhline(1, color=color("line"), zorder=0)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_ylabel(label)
    clean_axes(axes, grid="y")
