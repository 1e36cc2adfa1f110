from __future__ import annotations

from collections import Counter

import pytest

from peml.data.leakage import find_leakage
from peml.data.settings import TasksSettings
from peml.data.sources import load_all
from peml.errors import TaskError
from peml.tasks import Task, TaskRenderer, TaskType, load_suite
from peml.tasks.generated import generate
from tests.tasks.demo import TASKS, generate_demo

_TASKS = load_suite("demo").tasks


@pytest.mark.parametrize("task", _TASKS, ids=lambda task: task.name)
def test_every_row_renders_and_majority_is_chance(task: Task) -> None:
    renderer = TaskRenderer(task)
    for rows in generate("demo", task.name).values():
        examples = [renderer.render(row, index) for index, row in enumerate(rows)]
        gold = [renderer.gold(row, index) for index, row in enumerate(rows)]
        assert gold == [example.gold for example in examples]
        if task.type is not TaskType.GENERATION:
            options = len(examples[0].options)
            commonest = Counter(example.label for example in examples).most_common(1)[0][1]
            assert commonest == pytest.approx(len(rows) / options, abs=1)
        words = [len(" ".join(example.segments).split()) for example in examples]
        assert 4 <= sum(words) / len(words) <= 30


def test_no_row_of_any_task_is_in_another_split() -> None:
    settings = TasksSettings(suite="demo")
    data = load_all(_TASKS, settings, seed=0).data
    assert find_leakage(data) == []


@pytest.mark.parametrize("task", TASKS)
def test_the_rows_are_those_that_the_code_beside_this_test_makes(task: str) -> None:
    assert generate("demo", task) == generate_demo(task)


def test_similarity_counts_shared_facts() -> None:
    rows = generate("demo", "similarity")["train"]
    identical = [row for row in rows if row["first"] == row["second"]]
    assert all(row["score"] == 5 for row in identical)
    overlap: dict[float, list[int]] = {}
    for row in rows:
        shared = set(row["first"].lower().split()) & set(row["second"].lower().split())
        overlap.setdefault(row["score"], []).append(len(shared))
    means = [sum(overlap[score]) / len(overlap[score]) for score in sorted(overlap)]
    assert means == sorted(means)


def test_the_clock_tells_the_time() -> None:
    rows = [row for split in generate("demo", "clock").values() for row in split]
    told = {row["sentence"].split(" at ")[1].rstrip("."): row["digits"] for row in rows}
    assert told["half past eleven"] == "11:30"
    assert told["five to one"] == "12:55"
    assert told["a quarter past twelve"] == "12:15"
    assert told["twenty to two"] == "1:40"


def test_neither_sentence_alone_decides_entailment() -> None:
    rows = generate("demo", "entailment")["train"]
    for kind in ("is ", "was shopping", "got the", "paid for"):
        labels = Counter(row["label"] for row in rows if kind in row["hypothesis"])
        assert max(labels.values()) < 0.5 * sum(labels.values())


def test_unknown_generators_and_tasks_are_refused() -> None:
    with pytest.raises(TaskError, match=r"no generator 'dmo'. Did you mean 'demo'"):
        generate("dmo", "reviews")
    with pytest.raises(TaskError, match="Did you mean 'reviews'"):
        generate("demo", "review")
