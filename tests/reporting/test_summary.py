from __future__ import annotations

import math

import pytest

from peml.records.run import Cost, Results, TaskResult
from peml.reporting.summary import join_names, noise, summarise


def task(value: float, **numbers: float) -> TaskResult:
    return TaskResult.model_validate(
        {"metric": "accuracy", "value": value, "majority": 0.5, "rows": 400, **numbers}
    )


def results(**tasks: TaskResult) -> Results:
    return Results(
        format=1,
        method="peml",
        model="tiny",
        seed=0,
        tasks=tasks,
        mean=sum(t.value for t in tasks.values()) / len(tasks),
        majority_mean=0.5,
        cost=Cost(seconds={}, trainable_parameters={}, total_trainable_parameters=0),
    )


def test_what_there_is_to_know_about_a_score_is_said_once() -> None:
    noted = task(0.8).model_copy(update={"notes": ["options are scored one by one"]})
    said = summarise(results(a=noted, b=task(0.7), c=noted)).sentences
    assert [s for s in said if "one by one" in s] == ["a and c: options are scored one by one."]


def test_noise_is_the_largest_standard_error_of_an_accuracy() -> None:
    assert noise(400) == pytest.approx(math.sqrt(0.5 * 0.5 / 400))


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (0.4, "at or below majority"),
        (0.5, "at or below majority"),
        (0.51, "not clearly above majority"),
        (0.53, ""),
        (math.nan, "diverged: no finite score"),
    ],
)
def test_flags(value: float, flag: str) -> None:
    assert summarise(results(a=task(value))).rows[0].flag == flag


def test_effects_need_more_than_noise() -> None:
    rows = summarise(
        results(
            helped=task(0.8, prefix_off=0.7, lora_off=0.5),
            hurt=task(0.7, prefix_off=0.8, lora_off=0.5),
            same=task(0.7, prefix_off=0.69, lora_off=0.5),
        )
    ).rows
    assert [row.effects["prefix"] for row in rows] == [
        "helps",
        "hurts",
        "unclear",
    ]


def test_the_paragraph_says_who_gains_from_what() -> None:
    text = " ".join(
        summarise(
            results(
                a=task(0.8, prefix_off=0.7, lora_off=0.6),
                b=task(0.7, prefix_off=0.8, lora_off=0.6),
                c=task(0.45, prefix_off=0.45, lora_off=0.2),
            ),
        ).sentences
    )
    assert "mean of 0.650 over 3 tasks" in text
    assert "majority baseline reaches 0.500" in text
    assert "The prefix clearly helps a." in text
    assert "The prefix clearly hurts b." in text
    assert "LoRA clearly helps every task." in text
    assert "c is at or below the majority baseline." in text


def test_a_part_that_was_not_measured_is_not_mentioned() -> None:
    summary = summarise(results(a=task(0.8, lora_off=0.6)))
    assert summary.parts == ["lora"]
    assert "prefix" not in " ".join(summary.sentences)


def test_a_diverged_task_is_said_and_leaves_no_mean() -> None:
    text = " ".join(summarise(results(a=task(math.nan, prefix_off=0.4), b=task(0.9))).sentences)
    assert "no finite mean" in text
    assert "a has no finite score" in text
    assert "nan" not in text


def test_join_names() -> None:
    assert [join_names(list(names)) for names in ("a", "ab", "abc")] == [
        "a",
        "a and b",
        "a, b and c",
    ]
