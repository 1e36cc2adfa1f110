"""What a search's decisions are said to have come to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peml.reporting.run.decisions import draw_decisions, draw_gates, tabulate_decisions
from peml.reporting.run.outcomes import (
    describe_search,
    free_course,
    judge,
    judge_found,
    list_outcomes,
)
from peml.reporting.run.report import render_html, render_markdown
from peml.reporting.run.results import History, load_run
from tests.reporting.pages import markdown_tables, parse_page, text_of

Change = Callable[[dict[str, Any]], None]


def change_log(folder: Path, kind: str, change: Change) -> History:
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == kind:
            change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return load_run(folder).history


@pytest.mark.parametrize(
    ("weights", "undecided"),
    [
        ({"a": 0.5, "b": 0.5}, True),
        ({"a": 0.59, "b": 0.41}, True),  # far from b, near to an even share
        ({"a": 0.61, "b": 0.39}, False),
        ({"a": 0.45, "b": 0.36, "c": 0.19}, True),
        ({"a": 0.45, "b": 0.34, "c": 0.21}, False),
        (dict.fromkeys("abcdefgh", 0.125), True),
        ({"a": 1.0}, False),
        ({"a": 1.0, "b": 0.0}, False),
    ],
)
def test_near_weights_leave_a_decision_open(weights: dict[str, float], undecided: bool) -> None:
    (outcome,) = judge({"cell.0": weights}, {"cell.0": "a"})
    assert outcome.undecided is undecided
    assert outcome.note == ("undecided" if undecided else "")


def test_what_overruled_the_weights_is_said_instead() -> None:
    weights = {name: {"skip": 0.52, "conv": 0.48} for name in ("cell.0", "cell.1")}
    choices = {"cell.0": "conv", "cell.1": "conv"}
    found = judge(weights, choices, guarded=["cell.0", "cell.1"], fitted=["cell.1"])
    assert [outcome.note for outcome in found] == [
        "chosen by the guard against collapse", "chosen to fit the budget"
    ]  # fmt: skip
    assert {(outcome.runner_up, outcome.runner_up_weight) for outcome in found} == {("skip", 0.52)}


def test_where_scores_choose_near_weights_leave_nothing_open() -> None:
    found = judge({"cell.0": {"a": 0.5, "b": 0.5}}, {"cell.0": "b"}, by_weight=False)
    assert found[0].note == ""


def test_weights_led_to_one_option_name_no_runner_up() -> None:
    (found,) = judge({"cell.0": {"a": 0.0, "b": 1.0, "c": 0.0}}, {"cell.0": "b"})
    assert (found.runner_up, found.runner_up_weight) == ("", 0.0)


def test_a_genotype_that_was_not_searched_has_no_outcomes() -> None:
    assert judge_found({"by": "hand"}, {"cell.0": "a"}) == []


def test_weights_are_those_before_the_cooldown(searched: Path) -> None:
    history = load_run(searched).history
    last = history.decisions[-1].weights
    assert max(last["cell.0"].values()) == pytest.approx(1)  # what a log's last line says
    rows = {row.name: row for row in tabulate_decisions(history)}
    free = history.discretise and history.discretise.free
    assert free
    for name, row in rows.items():
        weights = free.weights[name]
        assert row.weight == weights[row.chosen] < 0.999
        others = {option: value for option, value in weights.items() if option != row.chosen}
        assert row.runner_up == max(others, key=others.__getitem__)
        assert row.runner_up_weight == others[row.runner_up] > 0
    assert [name for name, row in rows.items() if row.undecided] == ["length"]
    assert free_course(history)[-1].step == 100 < history.decisions[-1].step


def test_the_report_says_when_what_was_open_and_what_the_cooldown_changed(searched: Path) -> None:
    run = load_run(searched)
    outcomes = list_outcomes(run.history)
    least = min(outcomes, key=lambda outcome: outcome.weight)
    for text in (render_markdown(run), text_of(parse_page(render_html(run)))):
        assert "The weights are those at step 100, the end of the free search: the average" in text
        assert "By step 120, the cool-down moved the chosen options to 1 and all others" in text
        assert f"the chosen options had {least.weight:.2f} ({least.name}) to " in text
        assert "or of an even share: length. Another seed may choose otherwise there." in text
    (table,) = [t for t in markdown_tables(render_markdown(run)) if t[0][0] == "decision"]
    assert {row[0]: row[-1] for row in table[2:] if row[-1]} == {
        "cell.1": "chosen by the guard against collapse", "length": "undecided"
    }  # fmt: skip


def test_figures_end_where_the_decisions_came_to_rest(searched: Path) -> None:
    def even(line: dict[str, Any]) -> None:
        line["free"]["weights"]["layer.3"] = {"off": 0.49, "on": 0.51}

    change_log(searched, "discretise", even)
    run = load_run(searched)
    for axes in draw_decisions(run).axes:
        assert axes.get_xlim()[1] == 100
        assert not any(text.get_text().endswith(" 1.00") for text in axes.texts)
    gates = [text.get_text() for text in draw_gates(run).axes[0].texts]
    assert gates[3] == "on  0.51 undecided"


def test_without_a_cooldown_none_is_told(searched: Path) -> None:
    history = change_log(searched, "discretise", lambda line: line["free"].update(step=120))
    assert "cool-down" not in " ".join(describe_search(history))


def test_scores_that_chose_are_told(searched: Path) -> None:
    history = change_log(searched, "discretise", lambda line: line["free"].update(by_weight=False))
    text = " ".join(describe_search(history))
    assert "chosen by how much the held-out loss rises without them" in text
    assert "Undecided" not in text
