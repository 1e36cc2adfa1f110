"""The figure of what was drawn: how much of each task the training steps saw."""

from __future__ import annotations

from matplotlib.figure import Figure

from peml.reporting.run.results import History, RunRecord
from peml.reporting.style import clean_axes, color, new_figure, note, style_context


def count_drawn(history: History) -> dict[str, int]:
    """Rows each task gave to the logged steps; empty where the log doesn't tell."""
    drawn: dict[str, int] = {}
    for record in history.steps:
        for name, rows in record.task_rows.items():
            drawn[name] = drawn.get(name, 0) + rows
    return drawn


def draw_mixture(run: RunRecord) -> Figure:
    """One bar per task: rows drawn, their share, and how often each train row was seen."""
    counted = count_drawn(run.history)
    planned = {task.name: task.train for task in run.plan.tasks}
    names = [name for name in planned if name in counted]
    total = sum(counted.values())
    with style_context():
        figure = new_figure(0.3 * len(names) + 0.85)
        axes = figure.subplots()
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
