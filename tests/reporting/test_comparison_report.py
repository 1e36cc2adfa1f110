from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from peml.records.comparison import ComparisonRecord
from peml.reporting.comparison.figures import (
    draw_comparison,
    draw_cost,
    draw_differences,
    draw_ranks,
    rank_tasks,
    source_line,
)
from peml.reporting.comparison.page import render_comparison_html, write_comparison_report
from tests.examples.comparisons import write_example_comparison
from tests.reporting.comparisons import example, row_of
from tests.reporting.pages import (
    SVG,
    markdown_tables,
    parse_page,
    section_names,
    table_rows,
    text_of,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_example_comparison(tmp_path_factory.mktemp("comparison"))
    write_comparison_report(folder)
    return folder


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def all_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_writes_report_tables_and_figures(written: Path) -> None:
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert files == {
        "comparison.json", "report.md", "report.html",
        *(f"tables/glue.{kind}" for kind in ("md", "csv", "tex")),
        *(f"figures/glue-{name}.{kind}" for name in ("cost", "differences", "ranks")
          for kind in ("svg", "png")),
    }  # fmt: skip
    for path in (written / "figures").glob("*.svg"):
        ElementTree.parse(path)
    for path in (written / "figures").glob("*.png"):
        assert Image.open(path).width == 1440


def test_the_page_shows_the_tables(html: str) -> None:
    page = parse_page(html)
    assert section_names(page) == ["suite-0", "equal", "sizes", "settings"]
    header, *rows = table_rows(page, "scores-0")
    assert header[0] == "method"
    assert header[4:] == [
        "cola matthews".replace(" ", ""), "sst2accuracy", "mrpcf1", "stsbpearson", "qqpf1",
        "mnliaccuracy", "qnliaccuracy", "rteaccuracy",
    ]  # fmt: skip
    assert [row[0] for row in rows][-2:] == ["peml", "majority"]
    assert rows[3][0] == "c-polya2 of 3 seeds"
    assert len(table_rows(page, "costs-0")) == 8
    assert [row[0] for row in table_rows(page, "grid-0")[1:]][:2] == ["lora", "mtl-lora"]
    assert table_rows(page, "methods")[2][-1] == "its weights differ from task to task"


def test_the_page_says_the_result_first_and_what_was_equal(html: str) -> None:
    text = text_of(parse_page(html))
    assert "On glue, peml has the highest mean over 8 tasks" in text
    assert "c-poly, seed 2 (training diverged at step 212" in text
    assert "mtl-lora and c-poly need the task's id at inference" in text
    assert "order of the data" in text
    assert "\u00d7 2: training diverged at step 88" in text


def test_the_page_links_its_runs_and_nothing_else(html: str) -> None:
    page = parse_page(html)
    links = [element.get("href") for element in page.iter("a")]
    assert len(links) == 19  # of 21 cells, those that finished
    assert links[0] == "cells/glue/lora-seed0/report.md"
    assert "cells/glue/lora%2Bprefix-seed1/report.md" in links
    for element in page.iter():
        assert element.tag.removeprefix(SVG) not in {"script", "link", "iframe", "img", "object"}
        assert not element.get("src")
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}
    bare = re.sub(r"var\(--[a-z0-9]+, #[0-9a-f]{6}\)", "", html[html.index("<main>") :])
    assert not re.search(r"#[0-9a-fA-F]{6}\b", bare), "a color a dark page can't change"


def test_markdown_tables_are_whole(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    tables = markdown_tables(text)
    assert [table[0][0] for table in tables] == [
        "method",
        "method",
        "what",
        "glue",
        "method",
        "run",
    ]
    assert all((written / path).is_file() for path in re.findall(r"\]\((figures/[^)]+)\)", text))
    runs = {row[0]: row for row in tables[-1]}
    assert runs["cells/glue/c-poly-seed2"][1] == "failed"
    assert runs["cells/glue/c-poly-seed2"][-1].count("training diverged") == 1


def test_writing_again_changes_nothing(written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*.*") if path.suffix != ".png"}
    write_comparison_report(written)
    assert {path: path.read_bytes() for path in before} == before


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    name = "<b>x</b> & $y$"
    path = write_example_comparison(tmp_path, methods=2, tasks=2) / "comparison.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"cola"', json.dumps(name)))
    page = parse_page(render_comparison_html(ComparisonRecord.read(tmp_path)))
    assert page.find(".//b") is None
    assert any(name in cell for cell in table_rows(page, "scores-0")[0])


def test_every_figure_names_its_runs_and_what_is_missing(tmp_path: Path) -> None:
    comparison = example(tmp_path)
    line = source_line(comparison, comparison.suites[0])
    assert line == ("runs: cells/glue/METHOD-seed{0, 1, 2} without multilora-seed1, c-poly-seed2")
    for figure in draw_comparison(comparison, comparison.suites[0]).values():
        assert any(line in " ".join(text.split()) for text in all_texts(figure))


def test_cost_shows_every_mean_and_marks_the_flagged(tmp_path: Path) -> None:
    comparison = example(tmp_path)
    suite = comparison.suites[0]
    figure = draw_cost(comparison, suite)
    left, right = figure.axes
    for axes, read, scale in ((left, lambda r: r.run_seconds, 60.0),
                              (right, lambda r: r.trainable_parameters, 1.0)):  # fmt: skip
        drawn = [c.lines[0].get_xydata()[0].tolist() for c in axes.containers]  # type: ignore[attr-defined]
        assert drawn == [[read(row) / scale, row.mean or 0] for row in suite.rows]
    hollow = [c.lines[0].get_markerfacecolor() == "#ffffff" for c in left.containers]  # type: ignore[attr-defined]
    assert [row.label for row, is_hollow in zip(suite.rows, hollow, strict=True) if is_hollow] == [
        "multilora", "c-poly", "moe-lora"
    ]  # fmt: skip
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "moe-lora (flagged)" in names
    assert names[-1] == "majority"


def test_the_majority_is_a_line_at_its_height_where_it_fits(tmp_path: Path) -> None:
    def at(value: float) -> ComparisonRecord:
        def change(data: dict[str, Any]) -> None:
            data["suites"][0]["majority_mean"] = value

        return example(tmp_path / str(value), change)

    near, far = at(0.66), at(0.1)
    line = draw_cost(near, near.suites[0]).axes[0].lines[-1]
    assert np.asarray(line.get_ydata()).tolist() == [0.66, 0.66]
    assert any(
        "majority 0.100, off the scale" in t for t in all_texts(draw_cost(far, far.suites[0]))
    )


def test_differences_have_a_panel_a_method_and_keep_to_the_scale(tmp_path: Path) -> None:
    def collapse(data: dict[str, Any]) -> None:
        row_of(data, "moe-lora")["difference"] |= {"value": -0.4, "low": -0.5, "high": -0.3}

    comparison = example(tmp_path, collapse)
    suite = comparison.suites[0]
    figure = draw_differences(comparison, suite)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "lora", "mtl-lora", "multilora (flagged)", "c-poly (flagged)", "moe-lora (flagged)", "peml"
    ]  # fmt: skip
    assert "\u22120.400" in [text.get_text() for text in figure.axes[4].texts]
    low, high = figure.axes[4].get_xlim()
    assert -low == high < 0.1
    peml = suite.row("peml")
    assert peml is not None
    assert peml.difference is not None
    marks = {
        line.get_ydata()[0]: line.get_xdata()[0]  # type: ignore[index]
        for line in figure.axes[-1].lines
        if len(line.get_xdata()) == 1  # type: ignore[arg-type]
    }
    values = [peml.difference.value, *(d.value for d in peml.difference.tasks.values())]
    assert [marks[place] for place in range(9)] == pytest.approx([v or 0 for v in values])


def test_ranks_share_ties_and_put_what_failed_last(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        scores = {"lora": 0.7, "mtl-lora": 0.9, "multilora": 0.7}
        for label, mean in scores.items():
            row_of(data, label)["tasks"]["cola"]["mean"] = mean
        row_of(data, "c-poly")["tasks"] = {}

    comparison = example(tmp_path, change, methods=4, tasks=1)
    suite = comparison.suites[0]
    assert rank_tasks(suite)[:, 0].tolist() == [2.5, 1.0, 2.5, 4.0]
    labels = [t.get_text() for t in draw_ranks(comparison, suite).axes[0].get_yticklabels()]
    assert labels[0] == "mtl-lora"
    assert labels[-1] == "c-poly (flagged)"


def test_a_comparison_in_which_nothing_finished_still_has_a_report(tmp_path: Path) -> None:
    def fail(data: dict[str, Any]) -> None:
        for label in ("lora", "mtl-lora"):
            row = row_of(data, label)
            for cell in row["cells"]:
                cell |= {"status": "failed", "reason": "no memory", "mean": None, "tasks": {}}
            row |= {"tasks": {}, "mean": None, "deviation": None, "difference": None}
            row |= {"seconds": {}, "latency": None, "grid": [], "factor": None}
            row |= {"trainable_parameters": None, "peak_memory_bytes": None}
        data["suites"][0] |= {"best_baseline": None, "majority_mean": None}
        data |= {"focus": None, "match": None, "budget": None, "tolerance": None, "tuning": None}

    example(tmp_path, fail, methods=2, tasks=2)
    write_comparison_report(tmp_path)
    text = text_of(parse_page((tmp_path / "report.html").read_text(encoding="utf-8")))
    assert "On glue no method has a score." in text
    assert "lora, seeds 0, 1 and 2 (no memory)" in text
    assert not re.search(r"\b(nan|None)\b", text + (tmp_path / "report.md").read_text())


def test_many_methods_are_told_apart_by_color_and_shape(tmp_path: Path) -> None:
    comparison = example(tmp_path, methods=14)
    lines = draw_cost(comparison, comparison.suites[0]).legends[0].get_lines()
    looks = {
        (line.get_marker(), line.get_color()) for line in lines if line.get_label() != "majority"
    }
    assert len(looks) == 14
