"""What is said of leaked, cut and left-out rows, from a plan alone."""

from __future__ import annotations

from typing import Any

import pytest

from peml.records.plan import Plan
from peml.reporting.cautions import Kind, list_cautions, tell_cautions


def plan(**values: Any) -> Plan:
    splits = {"train": 90, "development": 10, "reported": 40}
    tasks = [
        {"name": name, "type": "classification", "metric": "accuracy"} | splits
        for name in ("mood", "same", "rating")
    ]
    identity: dict[str, Any] = {"tasks": {}, "model": {}}
    given = {"tasks": tasks, "steps": {"search": 0, "train": 9}, "identity": identity}
    return Plan.model_validate(given | values)


def leak(of: str, train: str, rows: int, split: str = "reported", **more: int) -> dict[str, Any]:
    found = {"evaluation": of, "split": split, "train": train, "rows": rows}
    return found | {"evaluation_rows": 40, "anywhere": rows} | more


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            leak("mood", "mood", 12),
            "12 of 40 rows of mood's reported split are also in its train split: its score is too "
            "high.",
        ),
        (
            leak("mood", "same", 1),
            "1 of 40 rows of mood's reported split is also in same's train split: its score may be "
            "too high.",
        ),
        (
            leak("mood", "mood", 3, "development", evaluation_rows=15),
            "3 of 15 rows of mood's development split are also in its train split: its development "
            "score is too high, and choices by it are less reliable.",
        ),
    ],
)
def test_a_leak_is_told_with_its_numbers_and_names(entry: dict[str, Any], text: str) -> None:
    assert tell_cautions(plan(leakage=[entry])) == [text]


def test_several_training_splits_are_one_sentence_that_counts_each_row_once() -> None:
    entries = [leak("mood", name, 6, anywhere=8) for name in ("mood", "same", "rating")]
    (caution,) = list_cautions(plan(leakage=entries))
    assert caution.text == (
        "8 of 40 rows of mood's reported split are also in the train splits of mood (6), same (6) "
        "and rating (6): its score is too high."
    )
    assert (caution.kind, caution.task) == (Kind.INFLATED, "mood")


def test_rows_that_were_dropped_are_said_to_be() -> None:
    found = list_cautions(plan(leakage=[leak("mood", "same", 2)], leakage_action="drop"))
    assert [(c.kind, c.text) for c in found] == [
        (
            Kind.DROPPED,
            "2 of 40 rows of mood's reported split were also in same's train split: dropped from "
            "training (tasks.leakage: drop).",
        )
    ]


def test_dropped_rows_of_several_splits_are_one_sentence() -> None:
    entries = [leak("mood", "same", 2), leak("mood", "mood", 3, "development")]
    entries += [leak("same", "mood", 2)]
    (told,) = tell_cautions(plan(leakage=entries, leakage_action="drop"))
    assert told.startswith(
        "Train rows that are also in the evaluation splits of mood and same were"
    )


def test_nothing_leaks_into_a_model_that_is_not_trained() -> None:
    entries = [leak("mood", "mood", 12)]
    assert tell_cautions(plan(leakage=entries, steps={"search": 0, "train": 0})) == []


def test_cut_rows_and_skipped_tasks_come_after_what_makes_scores_wrong() -> None:
    given = plan(
        leakage=[leak("same", "same", 1, "development"), leak("mood", "mood", 1)],
        skipped=[{"name": "far", "reason": "there is no folder 'far'."}],
        max_length=64,
    ).model_dump()
    given["tasks"][1] |= {"cut": 5, "cut_train": 3, "cut_reported": 2}
    given["tasks"][2] |= {"cut": 1, "cut_train": 1}
    found = list_cautions(Plan.model_validate(given))
    assert [caution.kind for caution in found] == [
        Kind.INFLATED, Kind.CHOICE, Kind.CUT, Kind.CUT, Kind.SKIPPED
    ]  # fmt: skip
    assert [caution.text for caution in found[2:]] == [
        "5 rows of same, 3 of its 90 train ones, 0 of its 10 development ones and 2 of its 40 "
        "reported ones, are cut to model.max_length (64 tokens): the model doesn't see the rest.",
        "1 row of rating, 1 of its 90 train ones, 0 of its 10 development ones and 0 of its 40 "
        "reported ones, is cut to model.max_length (64 tokens): the model doesn't see the rest.",
        "far is left out: there is no folder 'far'.",
    ]


def test_many_are_told_as_a_few_and_names() -> None:
    entries = [leak(f"t{number}", f"t{number}", 1) for number in range(57)]
    skipped = [{"name": "far", "reason": "no data"}]
    told = tell_cautions(plan(leakage=entries, skipped=skipped))
    assert len(told) == 6
    assert told[4:] == [
        "The same goes for t4, t5, t6, t7, t8, t9, t10, t11 and 45 more (plan.json has the "
        "numbers).",
        "far is left out: no data.",
    ]
    few = tell_cautions(plan(leakage=entries[:6]))
    assert few[4:] == ["The same goes for t4 and t5 (plan.json has the numbers)."]
    assert "t4's reported split" in tell_cautions(plan(leakage=entries[:5]))[4]


def test_a_plan_without_anything_to_tell_says_nothing() -> None:
    assert tell_cautions(plan()) == []
