from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.errors import RunError
from peml.records.comparison import ComparisonRecord
from peml.reporting.comparison import render_comparison_html
from peml.reporting.comparison.formats import to_csv, to_latex, to_markdown
from peml.reporting.comparison.summary import (
    describe_flags,
    describe_methods,
    describe_suite,
    describe_trouble,
)
from peml.reporting.comparison.tables import Cell, Table, cost_table, score_table
from peml.reporting.comparison.text import interval, score, seconds, share, signed, size
from tests.examples.comparisons import write_example_comparison
from tests.reporting.pages import markdown_tables

Change = Callable[[dict[str, Any]], None]


def example(folder: Path, change: Change | None = None, **options: Any) -> ComparisonRecord:
    path = write_example_comparison(folder, **options) / "comparison.json"
    if change:
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")
    return ComparisonRecord.read(folder)


def scores(comparison: ComparisonRecord) -> Table:
    return score_table(comparison, comparison.suites[0])


def column(table: Table, title: str) -> dict[str, Cell]:
    index = [c.title for c in table.columns].index(title)
    return {row[0].text: row[index] for row in table.all_rows()}


def row_of(data: dict[str, Any], label: str) -> dict[str, Any]:
    row: dict[str, Any] = next(r for r in data["suites"][0]["rows"] if r["label"] == label)
    return row


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
    assert [size(v) for v in (None, 5 * 2**20, 3 * 2**29)] == ["\u2013", "5 MiB", "1.50 GiB"]
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


def set_difference(value: float, low: float | None, high: float | None) -> Change:
    def change(data: dict[str, Any]) -> None:
        row_of(data, "peml")["difference"] |= {"value": value, "low": low, "high": high}

    return change


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.012, 0.004, 0.02), r"peml is 0.012 above lora\+prefix.*\[\+0.004, \+0.020\] excludes"),
        ((0.012, -0.004, 0.02), r"peml is 0.012 above.*includes zero, so it may be chance"),
        ((-0.03, -0.05, -0.01), r"peml is 0.030 below lora\+prefix.*excludes zero"),
        ((0.0001, -0.01, 0.01), r"peml is level with lora\+prefix"),
        ((0.012, None, None), r"0.012 above.*; no interval was computed"),
    ],
)
def test_the_summary_says_what_the_method_in_focus_gains(
    tmp_path: Path, difference: tuple[float, float | None, float | None], words: str
) -> None:
    comparison = example(tmp_path, set_difference(*difference))
    assert re.search(words, " ".join(describe_suite(comparison, comparison.suites[0])))


def test_the_summary_calls_nothing_clear_after_one_seed(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        set_difference(0.03, 0.02, 0.04)(data)
        for cell in row_of(data, "peml")["cells"][1:]:
            cell.update(status="missing", mean=None)

    comparison = example(tmp_path, change)
    text = " ".join(describe_suite(comparison, comparison.suites[0]))
    assert "[+0.020, +0.040] is of one seed" in text
    assert "clear" not in text.partition("best of the other methods")[2].partition(" is of one")[0]
    assert "clearly" not in text


@pytest.mark.parametrize(("seeds", "is_cautious"), [(4, True), (5, False)])
def test_the_summary_is_cautious_below_five_seeds(
    tmp_path: Path, seeds: int, is_cautious: bool
) -> None:
    def change(data: dict[str, Any]) -> None:
        for row in data["suites"][0]["rows"]:
            row["cells"] = [row["cells"][0] | {"seed": seed} for seed in range(seeds)]

    comparison = example(tmp_path, change, trouble=False)
    said = " ".join(describe_trouble(comparison.suites[0]))
    assert (f"Caution: only {seeds} seeds" in said) is is_cautious


def test_the_summary_names_clear_tasks(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        tasks = row_of(data, "peml")["difference"]["tasks"]
        for name in tasks:
            tasks[name] = {"value": 0.0, "low": -0.1, "high": 0.1}
        tasks["cola"] = {"value": 0.2, "low": 0.1, "high": 0.3}
        tasks["rte"] = {"value": -0.2, "low": -0.3, "high": -0.1}

    comparison = example(tmp_path, change)
    text = " ".join(describe_suite(comparison, comparison.suites[0]))
    assert "clearly better on cola and clearly worse on rte; 6 of 8 tasks show no clear" in text


def test_the_summary_is_honest_when_a_baseline_wins(tmp_path: Path) -> None:
    comparison = example(tmp_path, lambda data: row_of(data, "lora").update(mean=0.9))
    assert describe_suite(comparison, comparison.suites[0])[0].startswith(
        "On glue, lora has the highest mean over 8 tasks: 0.900"
    )


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.5, "smallest learning-rate factor of the grid, 0.5"),
        (2.0, "largest learning-rate factor of the grid, 2"),
        (1.0, ""),
    ],
)
def test_a_grid_that_may_end_too_early_is_told(tmp_path: Path, factor: float, said: str) -> None:
    def change(data: dict[str, Any]) -> None:
        for row in data["suites"][0]["rows"]:
            row.update(factor=None, grid=[])
        points = [{"factor": tried, "mean": 0.5, "folder": "tuning"} for tried in (0.5, 1.0, 2.0)]
        row_of(data, "peml").update(factor=factor, grid=points)

    trouble = " ".join(describe_trouble(example(tmp_path, change).suites[0]))
    assert (f"peml took the {said}" in trouble) == bool(said)
    assert ("of the grid" in trouble) == bool(said)


def test_trouble_and_needs_are_said(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["methods"][0]["off_budget"] = -0.12

    comparison = example(tmp_path, change)
    trouble = describe_trouble(comparison.suites[0])
    assert "moe-lora (rte): at or below the majority baseline." in trouble
    assert any("c-poly, seed 2 (training diverged at step 212" in text for text in trouble)
    assert "Not run: multilora, seed 1." in trouble
    methods = describe_methods(comparison)
    assert methods[:2] == [
        "Sizes were matched by parameters to 663,552 within 5 %.",
        "Outside the budget: lora (\u221212.0 %).",
    ]
    assert methods[2].startswith("mtl-lora and c-poly need the task's id at inference")
    assert methods[3] == "moe-lora can't be merged into the weights."


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
