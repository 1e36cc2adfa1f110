from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from peml.records.comparison import ComparisonRecord
from peml.reporting.comparison.formats import to_csv, to_latex, to_markdown
from peml.reporting.comparison.page import render_comparison_html
from peml.reporting.comparison.summary import (
    describe_flags,
    describe_suite,
    describe_trouble,
)
from peml.reporting.comparison.tables import Cell, cost_table
from peml.reporting.numbers import interval, memory, score, seconds, share, signed
from tests.reporting.comparisons import Change, column, example, row_of, scores
from tests.reporting.pages import markdown_tables


def test_numbers_are_short_and_say_what_is_missing() -> None:
    assert score(0.8836, 0.0031) == "0.884 \u00b1 0.003"
    assert score(None) == "\u2013"
    assert [signed(v) for v in (0.012, -0.012, 0.0002, -0.0002)] == [
        "+0.012", "\u22120.012", "0.000", "0.000"
    ]  # fmt: skip
    assert interval(-0.01, 0.02) == "[\u22120.010, +0.020]"
    assert interval(None, 0.02) == ""
    assert [seconds(v) for v in (0.0, 12.34, 182.0, 7260.0)] == [
        "0 s", "12.3 s", "3 min 02 s", "2 h 01 min"
    ]  # fmt: skip
    assert [memory(v) for v in (None, 5 * 2**20, 3 * 2**29)] == ["\u2013", "5 MiB", "1.50 GiB"]
    assert [share(v) for v in (None, -0.021, 0.0)] == ["", "\u22122.1 %", "0.0 %"]


def test_groups_have_columns_of_their_own(tmp_path: Path) -> None:
    def group(data: dict[str, Any]) -> None:
        suite = data["suites"][0]
        suite |= {"average": "rows", "groups": {"pairs": {"tasks": 3, "majority_mean": 0.4}}}
        for number, row in enumerate(suite["rows"]):
            row["groups"] = {"pairs": {"mean": 0.5 + number / 100, "deviation": 0.01}}
        suite["rows"][0]["groups"] = {}

    comparison = example(tmp_path, group, trouble=False)
    table = scores(comparison)
    assert [c.below for c in table.columns if c.title in ("mean", "pairs")] == [
        "over rows", "3 tasks"
    ]  # fmt: skip
    labels = [row.label for row in comparison.suites[0].rows]
    pairs = column(table, "pairs")
    assert pairs[labels[0]] == Cell("\u2013")
    assert pairs[labels[1]] == Cell("0.510", "\u00b1 0.010")
    assert pairs[labels[-1]].is_best
    assert pairs["majority"].text == "0.400"
    assert all(len(row) == len(table.columns) for row in table.all_rows())
    read = list(csv.DictReader(io.StringIO(to_csv(comparison, comparison.suites[0]))))
    assert [row["group_pairs_mean"] for row in read[:2]] == ["", "0.51"]
    assert read[-1]["group_pairs_mean"] == "0.4"


def test_a_row_holds_the_means_the_difference_and_the_task_id(tmp_path: Path) -> None:
    comparison = example(tmp_path, trouble=False)
    table = scores(comparison)
    row = comparison.suites[0].row("lora")
    assert row is not None
    assert row.difference is not None
    assert column(table, "mean")["lora"].text == score(row.mean)
    assert column(table, "cola")["lora"] == Cell(
        score(row.tasks["cola"].mean), f"\u00b1 {row.tasks['cola'].deviation or 0:.3f}"
    )
    gap = column(table, "difference")
    assert gap["lora"] == Cell(
        signed(row.difference.value), interval(row.difference.low, row.difference.high)
    )
    assert gap[comparison.suites[0].best_baseline or ""].text == "best baseline"
    assert {n: c.text for n, c in column(table, "task id").items() if c.text != "no"} == {
        "mtl-lora": "needed", "c-poly": "needed"
    }  # fmt: skip
    assert table.last is not None
    assert table.last[0].text == "majority"
    assert column(table, "sst2")["majority"].text == "0.509"


def test_only_the_highest_that_nothing_flags_is_bold(tmp_path: Path) -> None:
    def win(data: dict[str, Any]) -> None:
        row_of(data, "moe-lora")["tasks"]["rte"]["mean"] = 0.99  # flagged on this task
        row_of(data, "c-poly")["tasks"]["cola"]["mean"] = 0.99  # a seed is lost
        for label in ("lora", "peml"):
            row_of(data, label)["tasks"]["sst2"]["mean"] = 0.9901
        row_of(data, "lora")["tasks"]["sst2"]["mean"] += 0.0001  # equal as shown

    table = scores(example(tmp_path, win))
    bold = {
        task: [name for name, cell in column(table, task).items() if cell.is_best]
        for task in ("rte", "cola", "sst2", "mean")
    }
    assert bold == {"rte": [], "cola": [], "sst2": ["lora", "peml"], "mean": ["peml"]}


def test_the_highest_mean_is_not_bold_where_a_seed_is_lost(tmp_path: Path) -> None:
    def win(data: dict[str, Any]) -> None:
        row_of(data, "c-poly").update(mean=0.99, flags=[])  # the lost cell alone has to do

    comparison = example(tmp_path, win)
    assert not any(cell.is_best for cell in column(scores(comparison), "mean").values())
    assert "(2 seeds, flagged below)" in describe_suite(comparison, comparison.suites[0])[0]


def test_lost_seeds_and_flags_stand_at_the_number(tmp_path: Path) -> None:
    def lose(data: dict[str, Any]) -> None:
        row_of(data, "peml")["tasks"]["mnli"] |= {"seeds": 1, "deviation": None}

    comparison = example(tmp_path, lose)
    table = scores(comparison)
    names = column(table, "method")
    assert [n for n, c in names.items() if c.below == "2 of 3 seeds"] == ["multilora", "c-poly"]
    assert column(table, "mnli")["peml"].below == "1 of 3 seeds"
    notes = dict(table.notes)
    flagged = column(table, "rte")["moe-lora"]
    assert [notes[mark] for mark in flagged.marks] == ["at or below the majority baseline"]
    assert names["c-poly"].marks == names["multilora"].marks  # one note for the same words
    assert notes[names["c-poly"].marks[0]] == "1 of 3 cells left out of the means"


def test_flags_and_notes_stand_in_every_form_and_only_flags_cost_the_bold(tmp_path: Path) -> None:
    def mark(data: dict[str, Any]) -> None:
        for row in data["suites"][0]["rows"]:
            row["tasks"]["sst2"]["flags"].append("12 of 872 rows of sst2 leak.")
            row["tasks"]["stsb"]["notes"] = ["3 rows of stsb are cut."]
            row["notes"] = ["far is left out."]

    comparison = example(tmp_path, mark, trouble=False)
    suite, table = comparison.suites[0], scores(comparison)
    assert not any(cell.is_best for cell in column(table, "sst2").values())
    assert any(cell.is_best for cell in column(table, "stsb").values())
    assert any(cell.is_best for cell in column(table, "mean").values())
    page = render_comparison_html(comparison)
    for text in ("12 of 872 rows of sst2 leak.", "3 rows of stsb are cut.", "far is left out."):
        for shown in (to_markdown(table), to_latex(table, "x"), to_csv(comparison, suite), page):
            assert text in shown
    assert describe_flags(suite) == [
        "every method: far is left out.",
        "every method (sst2): 12 of 872 rows of sst2 leak.",
        "every method (stsb): 3 rows of stsb are cut.",
    ]


def test_a_method_without_any_result_is_shown_and_not_averaged(tmp_path: Path) -> None:
    def fail(data: dict[str, Any]) -> None:
        row = row_of(data, "lora")
        for cell in row["cells"]:
            cell |= {"status": "failed", "reason": "out of memory", "mean": None, "tasks": {}}
        row |= {"tasks": {}, "mean": None, "deviation": None, "difference": None, "seconds": {}}
        row |= {"latency": None, "trainable_parameters": None, "peak_memory_bytes": None}

    comparison = example(tmp_path, fail)
    suite = comparison.suites[0]
    row = scores(comparison).rows[0]
    assert [cell.text for cell in row] == ["lora", "\u2013", "\u2013", "no", *["\u2013"] * 8]
    assert row[0].below == "0 of 3 seeds"
    costs = cost_table(comparison, suite)
    assert column(costs, "search + train")["peml"].text == "\u2013"  # nothing to compare with
    assert "Failed: lora, seeds 0, 1 and 2 (out of memory)" in " ".join(describe_trouble(suite))


def test_costs_are_told_beside_the_first_method(tmp_path: Path) -> None:
    comparison = example(tmp_path)
    first, row = comparison.suites[0].rows[0], comparison.suites[0].row("peml")
    assert row is not None
    table = cost_table(comparison, comparison.suites[0])
    spent = row.seconds["search"], row.seconds["train"]
    ratio = sum(value or 0 for value in spent) / (first.seconds["train"] or 0)
    assert column(table, "search + train")["peml"].text == f"{ratio:.2f}"
    assert column(table, "search")["peml"].text == "2 min 01 s"
    assert column(table, "merges")["mtl-lora"].text == "per task"
    assert table.columns[-2].below == "\u00d7 lora"
    assert [cell.text for cell in table.rows[0]][-3:] == ["4.10", "1.00", "once"]


def test_markdown_splits_a_wide_table_and_keeps_its_names(tmp_path: Path) -> None:
    table = scores(example(tmp_path, tasks=57, methods=14))
    parts = markdown_tables(to_markdown(table))
    assert len(parts) == 5
    assert all(len(part[0]) <= 13 for part in parts)
    assert all([row[0] for row in part[2:]][-1] == "majority" for part in parts)
    assert sum(len(part[0]) - 1 for part in parts) == 3 + 57
    assert to_markdown(table).count("at or below the majority baseline") == 1


def test_markdown_marks_best_and_notes(tmp_path: Path) -> None:
    text = to_markdown(scores(example(tmp_path)))
    rows = {row[0]: row for row in markdown_tables(text)[0]}
    assert re.fullmatch(r"\*\*[\d.]+\*\* \u00b1 [\d.]+", rows["peml"][1])
    assert "c-poly (2 of 3 seeds)<sup>a</sup>" in rows
    assert "<sup>a</sup> 1 of 3 cells left out of the means" in text


def test_latex_is_escaped_and_every_row_is_whole(tmp_path: Path) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["suites"][0]["tasks"][0]["name"] = "50%_of & more"
        row_of(data, "peml")["flags"] = [r"a #1 \flag{} ~^"]

    text = to_latex(scores(example(tmp_path, rename)), "all & more")
    assert r"50\%\_of \& more" in text
    assert r"\caption{all \& more (1 of 2)}" in text
    assert r"a \#1 \textbackslash{}flag\{\} \textasciitilde{}\textasciicircum{}" in text
    assert "\\textbf{" in text
    for block in text.split(r"\begin{tabular}{")[1:]:
        spec, _, body = block.partition("}")
        rows = [line for line in body.partition(r"\end{tabular}")[0].splitlines() if "&" in line]
        assert len(rows) == 2 + 7 + 1
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1
            assert row.endswith(r" \\")


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    comparison = example(tmp_path)
    suite = comparison.suites[0]
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(to_csv(comparison, suite)))}
    assert list(rows) == [*(row.label for row in suite.rows), "majority"]
    for row in suite.rows:
        read = rows[row.label]
        assert float(read["mean"]) == row.mean
        for task, found in row.tasks.items():
            assert float(read[f"{task}_mean"]) == found.mean
            assert float(read[f"{task}_deviation"]) == found.deviation
        assert int(read["seeds"]) == row.finished
        if row.difference is None:
            assert read["difference"] == read["cola_difference_low"] == ""
        else:
            assert float(read["difference_low"]) == row.difference.low
            assert float(read["cola_difference"]) == row.difference.tasks["cola"].value
    assert rows["moe-lora"]["flags"] == "rte: at or below the majority baseline"
    assert rows["c-poly"]["needs_task_id"] == "True"
    assert float(rows["majority"]["sst2_mean"]) == 0.509


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=2), "format 2"),
        (lambda data: data["suites"][0].update(name="../x"), "suites[0].name"),
        (lambda data: data["methods"].pop(0), "not listed: lora"),
        (lambda data: data["suites"][0]["rows"][0].pop("cells"), "suites[0].rows[0].cells"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        example(tmp_path, change)


def test_a_comparison_that_is_not_finished_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"comparison\.json: the file is missing") as caught:
        ComparisonRecord.read(tmp_path)
    assert "peml compare" in caught.value.action


def test_nan_and_null_are_nothing_to_show(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        row_of(data, "peml")["tasks"]["rte"]["mean"] = float("nan")
        row_of(data, "peml")["deviation"] = None
        data["later"] = "a field this version doesn't know"

    comparison = example(tmp_path, change)
    cell = column(scores(comparison), "rte")["peml"]
    assert cell.text == "\u2013"
    assert column(scores(comparison), "mean")["peml"].below == ""


def test_a_majority_of_the_reported_rows_is_marked(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["suites"][0]["tasks"][1]["majority_of"] = "reported"

    table = scores(example(tmp_path, change))
    marked = [
        c.title for c, cell in zip(table.columns, table.last or (), strict=True) if cell.marks
    ]
    assert marked == [example(tmp_path).suites[0].tasks[1].name]
    assert any("has no train rows" in text for _, text in table.notes)
