from __future__ import annotations

import errno
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from peml.reporting.run.report import render_html, render_markdown, write_report
from peml.reporting.run.results import load_run
from tests.reporting.pages import (
    SVG,
    markdown_tables,
    parse_page,
    section_names,
    table_rows,
    text_of,
)

Edit = Callable[[Path, Callable[[Any], None]], None]


def test_writes_both_files_and_nothing_else(plain: Path) -> None:
    before = set(plain.iterdir())
    write_report(plain)
    assert {path.name for path in set(plain.iterdir()) - before} == {"report.md", "report.html"}


def test_the_task_table_shows_the_results(searched: Path, searched_html: str) -> None:
    tasks = json.loads((searched / "results.json").read_text(encoding="utf-8"))["tasks"]
    header, *rows, mean = table_rows(parse_page(searched_html), "task-table")
    assert header == [
        "task", "metric", "score", "majority", "prefix off", "LoRA off", "rows", "note"
    ]  # fmt: skip
    assert [row[0] for row in rows] == list(tasks)
    for row in rows:
        task = tasks[row[0]]
        assert row[2] == f"{task['value']:.3f}[{task['low']:.3f}, {task['high']:.3f}]"
        assert row[3] == f"{task['majority']:.3f}"
        assert row[4].startswith(f"{task['prefix_off']:.3f}")
        assert row[5].startswith(f"{task['lora_off']:.3f}")
        assert row[6] == f"{task['rows']:,}"
    values = [task["value"] for task in tasks.values()]
    assert mean[2].startswith(f"{sum(values) / len(values):.3f}[")
    assert {row[0]: row[-1] for row in rows if row[-1]} == {"wnli": "at or below majority"}


def test_the_page_has_every_section_and_figure(searched_html: str) -> None:
    page = parse_page(searched_html)
    assert section_names(page) == [
        "tasks", "classes", "cost", "training", "network", "search", "data", "settings"
    ]  # fmt: skip
    assert [svg.get("id") for svg in page.iter(f"{SVG}svg")] == [
        "fig-scores", "fig-validation", "fig-loss", "fig-mixture",
        "fig-network", "fig-decisions", "fig-gates",
    ]  # fmt: skip


def test_the_page_tells_cost_gap_leakage_and_skipped_tasks(searched_html: str) -> None:
    page = parse_page(searched_html)
    text = text_of(page)
    assert "2 min 21 s" in text
    assert "1,327,104" in text
    assert "1.78 GiB" in text
    assert "from 0.651 (soft) to 0.647 (hard), that is \u22120.004" in text
    assert "chosen by the guard against collapse" in text
    assert table_rows(page, "leakage")[1:] == [
        ["stsb", "reported", "mrpc", "118"],
        ["mrpc", "development", "stsb", "7"],
    ]
    assert "dropped from training" in text
    assert "Train rows dropped because of this: mrpc 118, stsb 7." in text
    assert "qnli: 3 texts were cut to the model's length." in text
    told = text.index("the evaluation splits of stsb and mrpc were dropped")
    assert told < text.index("reaches a mean of")
    assert "rows trained on" not in text
    assert "Skipped: headlines, because an encoder can't generate text." in text
    assert "name: peml" in text
    assert "0123abc" in text


def test_rows_that_were_trained_on_are_the_first_thing_said(plain: Path, edit: Edit) -> None:
    edit(plain / "plan.json", lambda plan: plan.update(leakage_action="report"))
    run = load_run(plain)
    page, markdown = parse_page(render_html(run)), render_markdown(run)
    said = "118 of 1,500 rows of stsb's reported split are also in mrpc's train split: its score"
    for text in (text_of(page), markdown):
        assert 0 < text.index(said) < text.index("headlines is left out") < text.index("reaches a")
    for rows in (table_rows(page, "task-table"), markdown_tables(markdown)[0]):
        marked = [row[0] for row in rows if row[-1].endswith("rows trained on")]
        assert marked == ["stsb"]


def test_the_page_asks_for_nothing_outside_itself(searched_html: str) -> None:
    page = parse_page(searched_html)
    for element in page.iter():
        tag = element.tag.removeprefix(SVG)
        assert tag not in {"script", "link", "iframe", "object", "embed", "img"}
        for name in ("src", "href", "{http://www.w3.org/1999/xlink}href"):
            assert element.get(name, "#").startswith("#")
    assert "@import" not in searched_html
    assert set(re.findall(r"https?://[^\s\"'<]+", searched_html)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\((.)", searched_html)) == {"#"}


def test_figures_refer_only_to_parts_of_themselves(searched_html: str) -> None:
    for svg in parse_page(searched_html).iter(f"{SVG}svg"):
        text = ElementTree.tostring(svg, encoding="unicode")
        wanted = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
        names = {name for pair in wanted for name in pair if name}
        assert names
        assert names <= {element.get("id") for element in svg.iter()}


def test_a_run_without_search_has_no_empty_boxes(plain: Path) -> None:
    run = load_run(plain)
    html = render_html(run)
    page = parse_page(html)
    assert section_names(page) == ["tasks", "classes", "cost", "training", "data", "settings"]
    assert table_rows(page, "task-table")[0] == [
        "task", "metric", "score", "majority", "LoRA off", "rows", "note"
    ]  # fmt: skip
    assert "prefix" not in text_of(page)
    markdown = render_markdown(run)
    assert "prefix" not in markdown
    assert "Discretisation" not in markdown


def test_a_fixed_prefix_shows_its_network_without_a_search(searched: Path) -> None:
    path = searched / "metrics.jsonl"
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if json.loads(line)["kind"] not in ("decisions", "discretise")
    ]
    path.write_text("\n".join(kept), encoding="utf-8")
    sections = section_names(parse_page(render_html(load_run(searched))))
    assert "network" in sections
    assert "search" not in sections


def test_a_diverged_task_is_shown_as_such(searched: Path, edit: Edit) -> None:
    def diverge(results: Any) -> None:
        results["tasks"]["rte"] |= {"value": math.nan, "low": None, "high": None}
        results |= {"mean": math.nan, "low": None, "high": None}

    edit(searched / "results.json", diverge)
    path = searched / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "development" and line["step"] >= 200:
            line["tasks"]["rte"] = line["mean"] = math.nan
        if line["kind"] == "step" and line["step"] > 418:
            line["loss"] = math.nan
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = load_run(searched)
    page = parse_page(render_html(run))
    rows = {row[0]: row for row in table_rows(page, "task-table")}
    assert rows["rte"][2] == "not finite"
    assert rows["rte"][-1] == "diverged: no finite score"
    assert rows["rte"][4] == "0.592"  # no difference to a number that isn't there
    assert rows["mean"][2] == "not finite"
    text = text_of(page)
    assert "not finite from 200" in text
    assert "2 training steps had no finite loss." in text
    assert not re.search(r"\bnan\b", text + render_markdown(run), re.IGNORECASE)


def test_markdown_tables_parse_and_hold_the_results(searched: Path) -> None:
    edit_name = "a|b"
    results = json.loads((searched / "results.json").read_text(encoding="utf-8"))
    results["tasks"][edit_name] = results["tasks"].pop("rte")
    (searched / "results.json").write_text(json.dumps(results), encoding="utf-8")
    tables = markdown_tables(render_markdown(load_run(searched)))
    rows = {row[0]: row for row in tables[0]}
    assert rows[edit_name][2].startswith("0.614 [")
    assert rows["cola"][4] == "0.312 (\u22120.026)"
    assert rows["wnli"][-1] == "at or below majority"
    assert {table[0][0] for table in tables} == {
        "task", "right", "phase", "", "decision", "evaluated task"
    }  # fmt: skip


def test_each_class_has_its_f1_and_what_it_was_taken_for(
    searched: Path, searched_html: str
) -> None:
    (table,) = (
        t for t in markdown_tables(render_markdown(load_run(searched))) if t[0][0] == "right"
    )
    assert table[0] == ["right", "rows", "F1", "negative", "positive"]
    assert table[-2:] == [
        ["negative", "428", "0.875", "370", "58"],
        ["positive", "444", "0.885", "47", "397"],
    ]
    page = text_of(parse_page(searched_html))
    assert "negative4280.87537058" in page.replace(" ", "")


def test_a_run_without_intervals_or_classes_has_none(plain: Path, edit: Edit) -> None:
    def strip(results: Any) -> None:
        for each in (results, *results["tasks"].values()):
            each.pop("low"), each.pop("high"), each.pop("classes", None)

    edit(plain / "results.json", strip)
    for page in (render_html(load_run(plain)), render_markdown(load_run(plain))):
        assert "95 % interval" not in page
        assert "Classes" not in page


def test_means_of_groups_stand_above_the_mean(searched: Path, edit: Edit) -> None:
    def group(data: Any) -> None:
        off = {"prefix_off": 0.512, "lora_off": 0.431}
        means = {"mean": 0.6543, "majority_mean": 0.5, "ablation_means": off}
        data |= {"average": "rows", "groups": {"pairs": {"tasks": ["rte", "cola"], **means}}}

    edit(searched / "results.json", group)
    run = load_run(searched)
    page = parse_page(render_html(run))
    shown = table_rows(page, "task-table")
    assert shown[-2][:4] == ["pairs", "mean of 2", "0.654", "0.500"]
    assert shown[-1][:2] == ["mean", "over rows"]
    lines = markdown_tables(render_markdown(run))[0]
    assert lines[-2][:4] == ["*pairs*", "mean of 2", "0.654", "0.500"]
    assert lines[-2][4:6] == ["0.512", "0.431"]
    assert re.search(r"over the rows of \d+ tasks", text_of(page))


def test_names_from_outside_are_escaped(plain: Path, edit: Edit) -> None:
    name = "<b>x</b> & $y$"

    def rename(data: Any) -> None:
        data["tasks"][name] = data["tasks"].pop("cola")

    edit(plain / "results.json", rename)
    page = parse_page(render_html(load_run(plain)))
    assert page.find(".//b") is None
    assert name in [row[0] for row in table_rows(page, "task-table")]
    scores = page.find(f".//{SVG}svg[@id='fig-scores']")
    assert scores is not None
    assert name in text_of(scores)


def test_the_same_run_gives_the_same_report(plain: Path) -> None:
    write_report(plain)
    first = (plain / "report.html").read_bytes()
    write_report(plain)
    assert (plain / "report.html").read_bytes() == first


def test_a_full_disk_leaves_the_old_report(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain / "report.html").write_text("old", encoding="utf-8")
    really_open = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"report\.html: the disk is full"):
        write_report(plain)
    monkeypatch.undo()
    assert (plain / "report.html").read_text(encoding="utf-8") == "old"


def test_the_best_step_is_of_the_last_phase(searched: Path) -> None:
    path = searched / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "development" and line["step"] in (100, 300):
            line["mean"] = 0.99 if line["phase"] == "search" else 0.98
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = {row[0]: row for row in markdown_tables(render_markdown(load_run(searched)))[3]}
    assert rows["best"] == ["best", "300", "0.980"]


def test_other_parts_are_shown_under_their_names(plain: Path, edit: Edit) -> None:
    def rename(results: Any) -> None:
        for task in results["tasks"].values():
            task["soft_prompt_off"] = task.pop("lora_off")
        results["ablation_means"] = {"soft_prompt_off": 0.123}
        results |= {"merging": "per task", "needs_task_id": True}

    edit(plain / "results.json", rename)
    run = load_run(plain)
    page = parse_page(render_html(run))
    table = table_rows(page, "task-table")
    assert table[0][4] == "soft prompt off"
    assert table[-1][4] == "0.123"
    assert "LoRA off" not in text_of(page)
    assert "With the soft prompt switched off the mean is 0.123." in text_of(page)
    for text in (text_of(page), render_markdown(run)):
        assert "lora needs the task's id at inference." in text


def test_a_run_without_ablations_has_no_column_for_them(plain: Path, edit: Edit) -> None:
    def strip(results: Any) -> None:
        for task in results["tasks"].values():
            del task["lora_off"]
        results |= {"ablation_means": {}, "merging": "never", "needs_task_id": False}

    edit(plain / "results.json", strip)
    page = parse_page(render_html(load_run(plain)))
    assert table_rows(page, "task-table")[0] == [
        "task", "metric", "score", "majority", "rows", "note"
    ]  # fmt: skip
    assert "switched off" not in text_of(page)
    assert "lora can't be merged into the weights." in text_of(page)


def test_the_weights_that_training_started_from_are_named(plain: Path, edit: Edit) -> None:
    start = {"source": "runs/old", "checksum": "1", "taken": {"lora": 9}, "left": {"x": "new"}}
    edit(plain / "plan.json", lambda plan: plan.update(start=start))
    for text in (render_markdown(load_run(plain)), render_html(load_run(plain))):
        assert "Starting from runs/old: lora (9 weights); not taken over: x (new)." in text
