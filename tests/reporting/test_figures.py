from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from peml.reporting.run.balancing import draw_balancing, draw_mixture
from peml.reporting.run.decisions import draw_decisions, draw_gates, tabulate_decisions
from peml.reporting.run.diagram import draw_network
from peml.reporting.run.figures import draw_figures, draw_loss, draw_scores, draw_validation
from peml.reporting.run.report import render_html
from peml.reporting.run.results import load_run
from peml.reporting.style import PALETTE, save_png, spread, to_svg
from tests.examples.runs import write_example_run


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_figures_are_saved_at_the_same_width(searched: Path, tmp_path: Path) -> None:
    figures = draw_figures(load_run(searched))
    assert [*figures] == [
        "scores", "validation", "loss", "mixture", "decisions", "gates", "network"
    ]  # fmt: skip
    for name in ("scores", "gates", "network"):  # the rest are made in the same ways
        save_png(figures[name], tmp_path / f"{name}.png")
        image = Image.open(tmp_path / f"{name}.png")
        assert image.width == 1440
        assert len(image.convert("L").histogram()) > 1


def test_draws_only_what_there_is(plain: Path) -> None:
    assert [*draw_figures(load_run(plain))] == ["scores", "validation", "loss", "mixture"]


def test_the_loss_has_a_centered_running_mean(searched: Path) -> None:
    run = load_run(searched)
    losses = [record.loss for record in run.history.steps]
    mean = draw_loss(run).axes[0].lines[1]
    half = len(losses) // 50
    assert half > 1
    slow = [
        np.mean(losses[max(0, place - half) : place + half + 1]) for place in range(len(losses))
    ]
    np.testing.assert_allclose(np.asarray(mean.get_ydata(), float), slow)
    assert np.asarray(mean.get_xdata()).tolist() == [record.step for record in run.history.steps]


def test_the_mixture_counts_what_the_log_says_was_drawn(searched: Path) -> None:
    run = load_run(searched)
    tasks = run.plan.tasks
    wanted = [sum(step.task_rows[task.name] for step in run.history.steps) for task in tasks]
    axes = draw_mixture(run).axes[0]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == wanted
    assert [label.get_text() for label in axes.get_yticklabels()] == [t.name for t in tasks]
    share, passes = 100 * wanted[0] / sum(wanted), wanted[0] / tasks[0].train
    assert texts(axes)[0] == f"{share:.1f} %, each row {passes:.2g} times"


def test_weights_that_moved_are_drawn_a_line_a_task(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "run")
    names = [task.name for task in load_run(folder).plan.tasks]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "step" and line["step"] % 10 == 0:
            line["task_weights"] = {
                name: 1 + n + line["step"] / 100 for n, name in enumerate(names)
            }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(folder)
    assert list(draw_figures(run)) == ["scores", "validation", "loss", "mixture", "balancing"]
    (weights,) = draw_balancing(run).axes
    assert [line.get_label() for line in weights.lines[:-1]] == names
    second = weights.lines[1]
    assert np.asarray(second.get_xdata())[:2].tolist() == [10, 20]
    assert np.asarray(second.get_ydata())[:2].tolist() == pytest.approx([2.1, 2.2])
    assert 'id="fig-balancing"' in render_html(run)


def test_scores_are_the_results(searched: Path) -> None:
    run = load_run(searched)
    lines = {line.get_label(): line for line in draw_scores(run).axes[0].lines}
    values = [task.value for task in run.results.tasks.values()]
    assert np.asarray(lines["trained"].get_xdata()).tolist() == values
    assert np.asarray(lines["majority"].get_xdata()).tolist() == [
        t.majority for t in run.results.tasks.values()
    ]


def test_validation_has_the_mean_and_a_panel_a_task(searched: Path) -> None:
    run = load_run(searched)
    figure = draw_validation(run)
    assert titles(figure) == ["mean", *run.results.tasks]
    curve = figure.axes[1].lines[0]
    assert np.asarray(curve.get_ydata()).tolist() == [
        r.tasks["cola"] for r in run.history.development
    ]
    assert texts(figure.axes[1]) == [f"{run.history.development[-1].tasks['cola']:.3f}"]


def test_the_loss_names_the_phases(searched: Path, plain: Path) -> None:
    assert texts(draw_loss(load_run(searched)).axes[0]) == ["search", "train"]
    assert texts(draw_loss(load_run(plain)).axes[0]) == []


def test_decisions_come_cells_first_with_the_chosen_one_in_bold(searched: Path) -> None:
    figure = draw_decisions(load_run(searched))
    assert titles(figure) == ["cell.0", "cell.1", "cell.2", "length", "head"]
    bold = [
        text.get_text().split()[0]
        for axes in figure.axes
        for text in axes.texts
        if text.get_fontweight() == "bold"
    ]
    assert bold == ["gated-mlp", "conv", "mlp-tanh", "16", "low-rank"]


def test_the_guard_is_told(searched: Path) -> None:
    rows = {row.name: row for row in tabulate_decisions(load_run(searched).history)}
    assert [name for name, row in rows.items() if row.guarded] == ["cell.1"]
    assert rows["cell.1"].chosen == "conv"
    assert rows["cell.1"].runner_up == "skip"
    assert rows["cell.1"].runner_up_weight > rows["cell.1"].weight


def test_a_guarded_gate_is_marked(searched: Path) -> None:
    path = searched / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('["cell.1"]', '["layer.2"]'), encoding="utf-8")
    shown = texts(draw_gates(load_run(searched)).axes[0])
    assert [text.endswith("guard") for text in shown] == [row == 2 for row in range(6)]


def test_gates_show_a_row_a_layer(searched: Path) -> None:
    axes = draw_gates(load_run(searched)).axes[0]
    assert [text.split()[0] for text in texts(axes)] == ["on", "off", "on", "on", "off", "on"]
    shades = np.asarray(axes.collections[0].get_facecolor())
    final = shades.reshape(6, -1, 4)[:, -1, 3]
    assert all(final[[0, 2, 3, 5]] > 0.9)
    assert all(final[[1, 4]] < 0.1)


@pytest.mark.parametrize("layers", [1, 6, 80])
def test_the_diagram_names_cells_and_marks_layers(tmp_path: Path, layers: int) -> None:
    run = load_run(write_example_run(tmp_path / "run", layers=layers))
    assert run.genotype is not None
    figure = draw_network(run.genotype)
    shown = texts(figure.axes[0])
    for text in ("gated-mlp", "conv", "mlp-tanh", "16 \u00d7 64", "low-rank head, rank 16"):
        assert text in shown
    assert shown.count("off") == run.genotype.layers.count(False)
    assert f"layer {layers - 1}" in shown
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 4 + sum(run.genotype.layers[:16])  # between five boxes, and into layers
    low, high = figure.axes[0].get_xlim()
    assert all(low <= text.get_position()[0] <= high for text in figure.axes[0].texts)


def test_svg_follows_the_page_in_light_and_dark(searched: Path) -> None:
    svg = to_svg(draw_scores(load_run(searched)), "fig-a")
    ElementTree.fromstring(svg)
    bare = re.sub(r"var\(--[a-z0-9]+, #[0-9a-f]{6}\)", "", svg)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", bare), "a color the page can't change"
    used = set(re.findall(r"var\(--([a-z0-9]+), #", svg))
    assert used <= set(PALETTE)


def test_drawing_leaves_matplotlib_as_it_was(searched: Path, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figures = draw_figures(load_run(searched))
    save_png(figures["scores"], tmp_path / "scores.png")
    to_svg(figures["loss"], "loss")
    assert dict(matplotlib.rcParams) == before


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_spread_keeps_order_bounds_and_distance(positions: list[float]) -> None:
    placed = spread(positions, 0.1, 0.0, 1.0)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in placed)
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    gap = min(0.1, 1 / max(1, len(positions) - 1))
    for low, high in pairwise(order):
        assert placed[high] - placed[low] >= gap - 1e-9
