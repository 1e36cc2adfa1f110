from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from peml.reporting.comparison.summary import (
    describe_methods,
    describe_suite,
    describe_trouble,
)
from tests.reporting.comparisons import Change, example, row_of


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
    ("factor", "slope", "said"),
    [
        (0.5, 0.1, "smallest learning-rate factor of the grid, 0.5"),
        (2.0, 0.1, "largest learning-rate factor of the grid, 2"),
        (1.0, 0.1, ""),
        (0.5, 0.0, ""),  # of a method without training, all factors are equal
    ],
)
def test_a_grid_that_may_end_too_early_is_told(
    tmp_path: Path, factor: float, slope: float, said: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        for row in data["suites"][0]["rows"]:
            row.update(factor=None, grid=[])
        points = [
            {"factor": tried, "mean": 0.5 + slope * tried, "folder": "tuning"}
            for tried in (0.5, 1.0, 2.0)
        ]
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
    sentence = "mtl-lora and c-poly need the task's id at inference"
    others = ", ".join(each.label for each in comparison.methods if not each.needs_task_id)
    head, _, last = others.rpartition(", ")
    assert methods[2] == f"{sentence}; {head} and {last} do not."
    needing = [method for method in comparison.methods if method.needs_task_id]
    alone = describe_methods(comparison.model_copy(update={"methods": needing}))
    assert f"{sentence}." in alone
    pair = [each for each in comparison.methods if each.label in ("lora", "c-poly")]
    two = describe_methods(comparison.model_copy(update={"methods": pair}))
    assert "c-poly needs the task's id at inference; lora does not." in two
    assert methods[3] == "moe-lora can't be merged into the weights."
