"""The common look of all figures, in light and dark, and their output as SVG or PNG.

Figures are drawn with the light palette. In the SVG each palette color becomes a CSS variable
(``var(--ink, #1f2328)``), so a page can recolor the same drawing for a dark background, and the
file alone still shows the light colors.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from peml.files import disk_errors

WIDTH = 9.6
"""Width of every figure, in inches: 9 pt text is then 12 px on a 920 px page."""

PALETTE: dict[str, tuple[str, str]] = {
    # name: (on light, on dark). The series colors are Paul Tol's "muted" scheme, which stays
    # apart under the common color vision deficiencies; the dark ones are lightened by hand.
    "ink": ("#1f2328", "#e6e9ed"),
    "soft": ("#59636e", "#a3adb8"),
    "line": ("#d1d7de", "#3b434d"),
    "shade": ("#eef2f7", "#1d2530"),
    "paper": ("#ffffff", "#12161c"),
    "accent": ("#1b5fa6", "#6cb0f5"),
    "warm": ("#c2570c", "#f2994a"),
    "leaf": ("#0f7b5f", "#45c4a0"),
    "alarm": ("#b42318", "#ff8a80"),
    "s0": ("#332288", "#8f7fe8"),
    "s1": ("#88ccee", "#7cc4ea"),
    "s2": ("#44aa99", "#3fb3a0"),
    "s3": ("#117733", "#3a9d5b"),
    "s4": ("#999933", "#b3b34d"),
    "s5": ("#ddcc77", "#dcc96b"),
    "s6": ("#cc6677", "#dd7f8f"),
    "s7": ("#882255", "#b95587"),
    "s8": ("#aa4499", "#c76ab8"),
    "s9": ("#9a9fa6", "#8b9199"),
}

Look = dict[str, Any]
"""Options of a Matplotlib artist."""

SERIES = tuple(name for name in PALETTE if re.fullmatch(r"s\d", name))

_STYLE: dict[RcKeyType, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": PALETTE["line"][0],
    "axes.labelcolor": PALETTE["soft"][0],
    "axes.titlecolor": PALETTE["ink"][0],
    "axes.facecolor": "none",
    "text.color": PALETTE["ink"][0],
    "xtick.color": PALETTE["soft"][0],
    "ytick.color": PALETTE["soft"][0],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "svg.fonttype": "none",  # text stays text: searchable, and read aloud
    "text.parse_math": False,  # a dollar in a task's name is a dollar
}


def color(name: str) -> str:
    """The light color of a palette name, as ``#rrggbb``."""
    return PALETTE[name][0]


@contextmanager
def style_context() -> Iterator[None]:
    """Applies the style while a figure is drawn or written; restores what was set before."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; ``height`` in inches."""
    figure = Figure(figsize=(WIDTH, height))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def new_axes(height: float) -> tuple[Figure, Axes]:
    """A figure of the common width with one pair of axes."""
    figure = new_figure(height)
    return figure, figure.subplots()


def name_rows(axes: Axes, names: Iterable[str], margin: float = 0.4) -> None:
    """Names the rows of a horizontal figure, the first on top, with a margin around them."""
    shown = list(names)
    axes.set_yticks(range(len(shown)), shown, color=color("ink"))
    axes.set_ylim(len(shown) - 1 + margin, -margin)


def panels(
    count: int,
    most: int,
    height: float,
    margins: tuple[float, float, float, float],
    *,
    shares_x: bool = False,
) -> tuple[Figure, list[Axes]]:
    """So many panels, at most ``most`` in a row, on a figure of the common width.

    Margins are fixed: fitting them to the labels would draw every panel three times. `height` is a
    row's, `margins` are a panel's (left, right, top, bottom), both in inches.
    """
    columns = min(most, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height))
    left, right, top, bottom = margins
    across, down = left + right, top + bottom
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - right / WIDTH,
        top=1 - top / (rows * height),
        bottom=bottom / (rows * height),
        wspace=across / (WIDTH / columns - across),
        hspace=down / (height - down),
    )
    grid = list(figure.subplots(rows, columns, sharex=shares_x, squeeze=False).flatten())
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def clean_axes(axes: Axes, *, grid: str = "y") -> None:
    """Removes decoration that carries no data; leaves faint grid lines along one axis."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    if grid in ("x", "y"):
        axes.grid(axis="x" if grid == "x" else "y", color=color("line"), linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def note(axes: Axes, text: str, at: tuple[float, float], shift: float = 5, **look: Any) -> None:
    """Writes a small text beside a point, ``shift`` points to its right."""
    usual = {"va": "center", "fontsize": 8.5, "color": color("soft")}
    place = {"xytext": (shift, 0), "textcoords": "offset points"}
    axes.annotate(text, at, **{**place, **usual, **look})


def beside(axes: Axes, row: float, text: str, **look: Any) -> None:
    """A text to the right of the axes, at the height of a row."""
    axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", **look)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels at least ``gap`` apart between ``low`` and ``high``, keeping their order.

    ``gap`` is made smaller if the labels don't fit otherwise.
    """
    if len(positions) > 1:
        gap = min(gap, (high - low) / (len(positions) - 1))
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    floor = low
    for index in order:
        placed[index] = max(placed[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def to_svg(figure: Figure, name: str) -> str:
    """The figure as one ``<svg>`` element, for a page or a file.

    Ids of the drawing start with `name`, which is unique in the page.
    """
    buffer = io.StringIO()
    # Matplotlib reads the salt of its ids from the settings only; without it, two reports of one
    # run would differ.
    with style_context(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = svg.replace("xlink:href", "href")
    # A <style> element would apply to the whole page, and nothing refers to the ids of groups.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)
    root = (  # no fixed size, so the page decides
        rf'<svg id="{name}" viewBox="\g<1>" xmlns="http://www.w3.org/2000/svg" version="1.1" '
        'style="stroke-linejoin: round; stroke-linecap: butt">'
    )
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', root, svg, count=1)
    svg = svg.replace("'DejaVu Sans'", "var(--font, 'DejaVu Sans', sans-serif)")
    for key, (light, _) in PALETTE.items():
        svg = re.sub(light, f"var(--{key}, {light})", svg, flags=re.IGNORECASE)
    return svg.strip()


def save_figures(figures: Mapping[str, Figure], folder: Path, before: str = "") -> None:
    """Writes each figure as SVG and PNG; the files' names begin with ``before``."""
    with disk_errors(folder):
        for name, figure in figures.items():
            folder.mkdir(parents=True, exist_ok=True)
            save_svg(figure, folder / f"{before}{name}.svg")
            save_png(figure, folder / f"{before}{name}.png")


def save_png(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Writes the figure on white."""
    with style_context():
        figure.savefig(path, format="png", dpi=dpi, facecolor=color("paper"))


def save_svg(figure: Figure, path: Path) -> None:
    """Writes the figure on white, as a drawing that other programs can edit."""
    with style_context(), matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", facecolor=color("paper"), metadata={"Date": None})
