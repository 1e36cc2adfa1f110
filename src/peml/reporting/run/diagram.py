"""A drawing of the chosen network: the blocks that compute the prefix, and the layers with it."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from peml.errors import ConfigError
from peml.files import disk_errors
from peml.records.run import GenotypeRecord
from peml.reporting.style import WIDTH, Look, color, new_figure, save_png, save_svg, style_context

_TIMES = "\u00d7"
_LAYERS_A_COLUMN = 16
_BOX_HEIGHT, _BOX_GAP = 0.46, 0.32
_LAYER_HEIGHT, _LAYER_GAP = 0.24, 0.09


def save_drawing(genotype: GenotypeRecord, out: Path) -> None:
    """Draws a prefix network into a file, ``NAME.png`` or ``NAME.svg``; refuses other names."""
    save = {".png": save_png, ".svg": save_svg}.get(out.suffix.lower())
    if save is None:
        raise ConfigError(
            f"a drawing can't be written to {out.name}",
            allowed="names that end in .png or .svg",
            action="choose one of these endings",
        )
    figure = draw_network(genotype)
    with disk_errors(out):
        save(figure, out)


@style_context()
def draw_network(genotype: GenotypeRecord) -> Figure:
    """The prefix network from embeddings to head on the left, the model's layers on the right."""
    low_rank = genotype.head == "low-rank"
    head = f"low-rank head, rank {genotype.head_rank}" if low_rank else f"{genotype.head} head"
    boxes = [
        ("embeddings", f"{genotype.length} {_TIMES} {genotype.width}"),
        *((f"cell {index}", operation) for index, operation in enumerate(genotype.cells)),
        ("output", head),
    ]
    rows = min(_LAYERS_A_COLUMN, len(genotype.layers))
    left = len(boxes) * (_BOX_HEIGHT + _BOX_GAP) - _BOX_GAP
    right = rows * (_LAYER_HEIGHT + _LAYER_GAP) - _LAYER_GAP
    height = max(left, right) + 0.75
    figure = new_figure(height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)  # inches from the top left corner
    axes.set_axis_off()
    middle = 0.5 + max(left, right) / 2
    _title(axes, 1.1, middle - left / 2, "the network behind the prefix")
    exit_at = _draw_boxes(axes, boxes, middle - left / 2)
    _title(axes, 4.55, middle - right / 2, "the model's self-attention layers")
    _draw_layers(axes, genotype, middle - right / 2, exit_at)
    return figure


def _title(axes: Axes, x: float, top: float, text: str) -> None:
    axes.text(x, top - 0.22, text, va="center", color=color("soft"), fontstyle="italic")


def _draw_boxes(axes: Axes, boxes: list[tuple[str, str]], top: float) -> tuple[float, float]:
    """Draws the column of blocks; returns the point where the prefix leaves it."""
    x, width = 1.1, 2.3
    for index, (label, text) in enumerate(boxes):
        y = top + index * (_BOX_HEIGHT + _BOX_GAP)
        is_cell = label.startswith("cell")
        skipped = is_cell and text == "skip"
        axes.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                _BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=color("shade") if not skipped else "none",
                edgecolor=color("accent" if is_cell and not skipped else "soft"),
                linestyle="--" if skipped else "-",
                linewidth=1.4,
            )
        )
        middle = y + _BOX_HEIGHT / 2
        axes.text(x - 0.12, middle, label, ha="right", va="center", color=color("soft"))
        bold: Look = {"ha": "center", "va": "center", "fontsize": 10, "fontweight": "bold"}
        axes.text(x + width / 2, middle, text, color=color("soft" if skipped else "ink"), **bold)
        if index:
            _arrow(axes, (x + width / 2, y - _BOX_GAP), (x + width / 2, y))
        if is_cell:  # around every cell, the residual
            center, outside = x + width / 2, x + width + 0.22
            above, below = y - _BOX_GAP * 0.62, y + _BOX_HEIGHT + _BOX_GAP * 0.2
            line = [center, outside, outside, center], [above, above, below, below]
            axes.plot(*line, color=color("soft"), linewidth=0.9, zorder=0)
    return x + width, y + _BOX_HEIGHT / 2


def _draw_layers(
    axes: Axes, genotype: GenotypeRecord, top: float, entry: tuple[float, float]
) -> None:
    layers = genotype.layers
    columns = math.ceil(len(layers) / _LAYERS_A_COLUMN)
    left, right = 4.55, WIDTH - 0.15
    pitch = (right - left) / columns
    prefix = min(0.85, pitch * 0.3)
    body = min(4.0, pitch - prefix - 0.3)
    on = f"K V {_TIMES} {genotype.length}" if columns < 3 else "on"
    bus = left - 0.45
    ends = [entry[1]]
    for index, active in enumerate(layers):
        column, row = divmod(index, _LAYERS_A_COLUMN)
        x = left + column * pitch
        y = top + row * (_LAYER_HEIGHT + _LAYER_GAP)
        ink = "ink" if active else "soft"
        if active:
            _block(axes, (x, y, prefix), on, fill="accent", edge="accent", ink="paper")
        else:
            _block(axes, (x, y, prefix), "off", fill=None, edge="line", ink="soft")
        place = (x + prefix + 0.05, y, body)
        _block(axes, place, f"layer {index}", fill="shade", edge="line", ink=ink)
        if column == 0 and active:
            middle = y + _LAYER_HEIGHT / 2
            ends.append(middle)
            _arrow(axes, (bus, middle), (x, middle))
    axes.plot([entry[0], bus], [entry[1]] * 2, color=color("accent"), linewidth=1.2)
    axes.plot([bus, bus], [min(ends), max(ends)], color=color("accent"), linewidth=1.2)


def _block(
    axes: Axes,
    place: tuple[float, float, float],
    text: str,
    *,
    fill: str | None,
    edge: str,
    ink: str,
) -> None:
    """Draws a box (left, top, width) in a layer's row; hollow and dashed if it has no fill."""
    x, y, width = place
    look: Look = {"facecolor": "none", "linestyle": (0, (2, 2))}
    if fill:
        look = {"facecolor": color(fill), "linestyle": "-"}
    box = Rectangle((x, y), width, _LAYER_HEIGHT, edgecolor=color(edge), linewidth=1, **look)
    axes.add_patch(box)
    middle = y + _LAYER_HEIGHT / 2
    axes.text(x + width / 2, middle, text, ha="center", va="center", fontsize=8, color=color(ink))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look: Look = {"color": color("accent"), "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, **look))
