"""Figures of the decisions' weights over the search, and the rows of their table."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from peml.records.metrics import Decisions
from peml.reporting.run.outcomes import Outcome, free_course, list_outcomes
from peml.reporting.run.results import History, RunRecord
from peml.reporting.style import (
    SERIES,
    Look,
    beside,
    clean_axes,
    color,
    new_axes,
    panels,
    spread,
    style_context,
)

_ON, _OFF = "on", "off"
_PANELS_A_ROW = 3
_HEAT_COLUMNS = 60


def gate_names(history: History) -> list[str]:
    """The on/off decisions (one per layer), in order of layers."""
    return [name for name, options in _final(history).items() if set(options) == {_ON, _OFF}]


def open_names(history: History) -> list[str]:
    """The other decisions, cells first."""
    gates = set(gate_names(history))
    names = [name for name in _final(history) if name not in gates]
    return sorted(names, key=lambda name: not name.startswith("cell"))


def tabulate_decisions(history: History) -> list[Outcome]:
    """The outcome of each decision that is no gate."""
    outcomes = {outcome.name: outcome for outcome in list_outcomes(history)}
    return [outcomes[name] for name in open_names(history)]


@style_context()
def draw_decisions(run: RunRecord) -> Figure:
    """One stacked area chart per decision, the chosen option in bold."""
    history = run.history
    names = open_names(history)
    final = _final(history)
    options = dict.fromkeys(option for name in names for option in final[name])
    tones = {option: SERIES[index % len(SERIES)] for index, option in enumerate(options)}
    chosen = {outcome.name: outcome.chosen for outcome in list_outcomes(history)}
    course = free_course(history)
    longest = max(len(option) for option in tones) + 5  # with its weight
    margins = (0.35, min(2.2, 0.15 + 0.07 * longest), 0.3, 0.45)
    figure, grid = panels(len(names), _PANELS_A_ROW, 2.2, margins)
    for index, (axes, name) in enumerate(zip(grid, names, strict=True)):
        _stack(axes, course, name, tones, chosen[name])
        if len(names) - index <= _PANELS_A_ROW:
            axes.set_xlabel("step")
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if index % _PANELS_A_ROW == 0 else [])
    return figure


@style_context()
def draw_gates(run: RunRecord) -> Figure:
    """A heat map: one row per layer gate, darker where the prefix is more likely on."""
    history = run.history
    names = gate_names(history)
    records = free_course(history)
    keep = np.unique(np.linspace(0, len(records) - 1, _HEAT_COLUMNS).round().astype(int))
    steps = [records[index].step for index in keep]
    edges = [*steps, steps[-1] + max(1, steps[-1] - steps[-2] if len(steps) > 1 else 1)]
    outcomes = {outcome.name: outcome for outcome in list_outcomes(history)}
    cells, alphas = [], []
    for row, name in enumerate(names):
        for column, index in enumerate(keep):
            cells.append(Rectangle((edges[column], row), edges[column + 1] - edges[column], 0.92))
            alphas.append(records[index].weights[name][_ON])
    figure, axes = new_axes(max(1.4, 0.23 * len(names) + 0.75))
    # Opacity instead of a color map: the same drawing works on a dark page.
    shades = [(*to_rgb(color("accent")), alpha) for alpha in alphas]
    axes.add_collection(
        PatchCollection(cells, facecolors=shades, edgecolors="none", antialiased=False)
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(len(names), 0)
    axes.set_yticks([row + 0.46 for row in range(len(names))], names, color=color("ink"))
    for row, name in enumerate(names):
        found, final = outcomes[name], records[-1].weights[name]
        mark = " guard" if found.guarded else " undecided" if found.undecided else ""
        tone, weight = ("ink", "bold") if found.chosen == _ON else ("soft", "normal")
        text = f"{found.chosen}  {final[_ON]:.2f}{mark}"
        beside(axes, row + 0.46, text, color=color(tone), fontweight=weight)
    axes.set_xlabel("step")
    axes.set_title(
        "weight of “on”: pale is 0, full color is 1; chosen option at the right", loc="left"
    )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    clean_axes(axes, grid="none")
    axes.spines["bottom"].set_visible(False)
    return figure


def _final(history: History) -> dict[str, dict[str, float]]:
    course = free_course(history)
    return course[-1].weights if course else {}


def _stack(
    axes: Axes, course: list[Decisions], name: str, tones: dict[str, str], chosen: str
) -> None:
    steps = [record.step for record in course]
    options = list(course[-1].weights[name])
    table = np.array([[r.weights[name][o] for r in course] for o in options])
    if len(steps) == 1:  # an area needs two points
        steps, table = [steps[0], steps[0] + 1], np.repeat(table, 2, axis=1)
    colors = [color(tones[option]) for option in options]
    axes.stackplot(steps, table, colors=colors, edgecolor=color("paper"), linewidth=0.8)
    axes.set_xlim(steps[0], steps[-1])
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(name)
    clean_axes(axes, grid="none")
    final = table[:, -1]
    centers = np.cumsum(final) - final / 2
    heights = spread(list(centers), 0.105, 0.02, 0.98)
    inside: Look = {"xycoords": "axes fraction", "textcoords": "axes fraction", "va": "center"}
    line: Look = {"arrowstyle": "-", "linewidth": 2.2, "relpos": (0, 0.5)}
    line |= {"shrinkA": 0, "shrinkB": 0}
    for option, weight, center, height in zip(options, final, centers, heights, strict=True):
        tone, bold = ("ink", "bold") if option == chosen else ("soft", "normal")
        look: Look = {"color": color(tone), "fontweight": bold, "fontsize": 8.5, **inside}
        arrow: Look = {**line, "color": color(tones[option])}
        text, place = f"{option} {weight:.2f}", (1.06, height)
        axes.annotate(text, (1.0, center), xytext=place, arrowprops=arrow, **look)
