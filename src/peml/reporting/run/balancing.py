"""The figures of each task's part in training: its rows and the weight of its loss."""

import math

from matplotlib.figure import Figure

from peml.reporting.run.results import History, RunRecord
from peml.reporting.style import (
    SERIES,
    clean_axes,
    color,
    new_axes,
    note,
    style_context,
)

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
    """Whether the weights of the tasks' losses changed."""
    return any(record.task_weights for record in history.steps)


@style_context()
def draw_balancing(run: RunRecord) -> Figure:
    """The weight of each task's loss over the steps, one line per task."""
    names = [task.name for task in run.plan.tasks]
    records = [record for record in run.history.steps if record.task_weights]
    figure, axes = new_axes(2.3 + 0.2 * (len(names) // 4 + 1))
    for place, name in enumerate(names):
        axes.plot(
            [record.step for record in records],
            [record.task_weights.get(name, math.nan) for record in records],
            color=color(SERIES[place % len(SERIES)]),
            linestyle=_LINES[place // len(SERIES) % len(_LINES)],
            label=name,
        )
    axes.axhline(1, color=color("line"), zorder=0)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_xlabel("step")
    axes.set_ylabel("weight of the loss")
    clean_axes(axes, grid="y")
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return figure
