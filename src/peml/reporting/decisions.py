"""How the decisions' weights moved: figures, and the facts for the tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from peml.reporting.results import History, RunRecord
from peml.reporting.style import SERIES, clean_axes, color, new_figure, spread, style_context

__all__ = [
    "DecisionRow",
    "draw_decisions",
    "draw_gates",
    "gate_names",
    "open_names",
    "tabulate_decisions",
]

_ON, _OFF = "on", "off"
_PANELS_A_ROW = 3
_HEAT_COLUMNS = 60


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision's outcome.

    Attributes:
        name: The decision.
        chosen: The option the genotype has.
        weight: Its weight when the search ended.
        runner_up: The strongest other option.
        runner_up_weight: That option's weight.
        guarded: True where the guard against collapse overruled the largest weight.
    """

    name: str
    chosen: str
    weight: float
    runner_up: str
    runner_up_weight: float
    guarded: bool


def gate_names(history: History) -> list[str]:
    """The on/off decisions (one a layer), in order."""
    return [name for name, options in _final(history).items() if set(options) == {_ON, _OFF}]


def open_names(history: History) -> list[str]:
    """The other decisions, cells first."""
    gates = set(gate_names(history))
    names = [name for name in _final(history) if name not in gates]
    return sorted(names, key=lambda name: not name.startswith("cell"))


def tabulate_decisions(history: History) -> list[DecisionRow]:
    """What each decision that is no gate came to."""
    final = _final(history)
    choices = history.discretise.choices if history.discretise else {}
    guarded = history.discretise.guarded if history.discretise else []
    rows = []
    for name in open_names(history):
        weights = final[name]
        chosen = _chosen(weights, choices.get(name))
        others = [option for option in weights if option != chosen]
        runner_up = max(others, key=lambda option: weights[option]) if others else ""
        rows.append(
            DecisionRow(
                name=name,
                chosen=chosen,
                weight=weights.get(chosen, 0.0),
                runner_up=runner_up,
                runner_up_weight=weights.get(runner_up, 0.0),
                guarded=name in guarded,
            )
        )
    return rows


def draw_decisions(run: RunRecord) -> Figure:
    """Small multiples: one stacked area chart a decision, the chosen option in bold."""
    history = run.history
    names = open_names(history)
    tones = _tones(names, _final(history))
    choices = history.discretise.choices if history.discretise else {}
    columns = min(_PANELS_A_ROW, len(names))
    rows = -(-len(names) // columns)
    with style_context():
        figure = new_figure(2.2 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid[len(names) :]:
            axes.remove()
        for index, (axes, name) in enumerate(zip(grid, names, strict=False)):
            _stack(axes, history, name, tones, choices.get(name))
            if len(names) - index <= columns:
                axes.set_xlabel("step")
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if index % columns == 0 else [])
        return figure


def draw_gates(run: RunRecord) -> Figure:
    """A heat map: one row a layer gate, darker where the prefix is more likely on."""
    history = run.history
    names = gate_names(history)
    records = history.decisions
    keep = np.unique(np.linspace(0, len(records) - 1, _HEAT_COLUMNS).round().astype(int))
    steps = [records[index].step for index in keep]
    edges = [*steps, steps[-1] + max(1, steps[-1] - steps[-2] if len(steps) > 1 else 1)]
    choices = history.discretise.choices if history.discretise else {}
    guarded = history.discretise.guarded if history.discretise else []
    cells, alphas = [], []
    for row, name in enumerate(names):
        for column, index in enumerate(keep):
            cells.append(Rectangle((edges[column], row), edges[column + 1] - edges[column], 0.92))
            alphas.append(records[index].weights[name][_ON])
    with style_context():
        figure = new_figure(max(1.4, 0.23 * len(names) + 0.75))
        axes = figure.subplots()
        # Opacity instead of a color map: the same drawing works on a dark page.
        shades = [(*to_rgb(color("accent")), alpha) for alpha in alphas]
        axes.add_collection(
            PatchCollection(cells, facecolors=shades, edgecolors="none", antialiased=False)
        )
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(len(names), 0)
        axes.set_yticks([row + 0.46 for row in range(len(names))], names, color=color("ink"))
        for row, name in enumerate(names):
            final = records[-1].weights[name]
            chosen = _chosen(final, choices.get(name))
            guard = " guard" if name in guarded else ""
            axes.text(
                1.01,
                row + 0.46,
                f"{chosen}  {final[_ON]:.2f}{guard}",
                transform=axes.get_yaxis_transform(),
                va="center",
                color=color("ink" if chosen == _ON else "soft"),
                fontweight="bold" if chosen == _ON else "normal",
            )
        axes.set_xlabel("step")
        axes.set_title(
            "weight of “on”: pale is 0, full color is 1; chosen option at the right", loc="left"
        )
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        clean_axes(axes, grid="none")
        axes.spines["bottom"].set_visible(False)
        return figure


def _final(history: History) -> dict[str, dict[str, float]]:
    return history.decisions[-1].weights if history.decisions else {}


def _chosen(weights: dict[str, float], chosen: str | None) -> str:
    """The option the search took; before it has ended, the strongest so far."""
    return max(weights, key=lambda option: weights[option]) if chosen is None else chosen


def _tones(names: Iterable[str], final: dict[str, dict[str, float]]) -> dict[str, str]:
    """One color an option, the same in every panel it appears in."""
    options = dict.fromkeys(option for name in names for option in final[name])
    return {option: SERIES[index % len(SERIES)] for index, option in enumerate(options)}


def _stack(
    axes: Axes, history: History, name: str, tones: dict[str, str], choice: str | None
) -> None:
    steps = [record.step for record in history.decisions]
    options = list(history.decisions[-1].weights[name])
    table = np.array([[r.weights[name][o] for r in history.decisions] for o in options])
    if len(steps) == 1:  # an area needs two points
        steps, table = [steps[0], steps[0] + 1], np.repeat(table, 2, axis=1)
    axes.stackplot(
        steps,
        table,
        colors=[color(tones[option]) for option in options],
        edgecolor=color("paper"),
        linewidth=0.8,
    )
    axes.set_xlim(steps[0], steps[-1])
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(name)
    clean_axes(axes, grid="none")
    final = table[:, -1]
    centers = np.cumsum(final) - final / 2
    chosen = _chosen(dict(zip(options, final, strict=True)), choice)
    heights = spread(list(centers), 0.105, 0.02, 0.98)
    for option, weight, center, height in zip(options, final, centers, heights, strict=True):
        bold = option == chosen
        axes.annotate(
            f"{option} {weight:.2f}",
            xy=(1.0, center),
            xytext=(1.06, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            fontweight="bold" if bold else "normal",
            color=color("ink" if bold else "soft"),
            arrowprops={
                "arrowstyle": "-",
                "color": color(tones[option]),
                "linewidth": 2.2,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
