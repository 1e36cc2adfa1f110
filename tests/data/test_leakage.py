from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.data.leakage import drop_leaked, find_leakage, find_shared_texts, input_keys
from peml.data.settings import TasksSettings
from peml.data.sources import TaskData, load_source, load_task_data
from peml.errors import DataError
from peml.tasks import load_suite
from tests.data.rows import Row, task_data
from tests.tasks import examples


def _pair(first: str, second: str) -> Row:
    return {"first": first, "second": second, "label": 0}


def _scored(first: str, second: str) -> Row:
    return {"first": first, "second": second, "score": 1.0}


def test_rows_of_other_tasks_are_found_in_either_order_and_spelling() -> None:
    same = task_data(examples.pair(), train=[_pair("A man", "a dog."), _pair("x", "y")])
    close = task_data(
        examples.score(),
        train=[_scored("u", "v")],
        reported=[_scored(" a  DOG", "a man"), _scored("a man", "a cat"), _scored("y", "x")],
        development=[_scored("v ,", "U")],
    )
    found = [
        (leak.evaluation, leak.split, leak.train, leak.rows, leak.evaluation_rows)
        for leak in find_leakage([same, close])
    ]
    assert found == [
        ("closeness", "reported", "same", 2, 3),
        ("closeness", "development", "closeness", 1, 1),
    ]


def test_rows_in_several_training_splits_count_once_in_all() -> None:
    one, other = (
        task_data(examples.pair(name=name), train=[_pair("a", "b")], reported=[_pair("a", "b")] * 2)
        for name in ("one", "other")
    )
    found = find_leakage([one, other])
    assert [(leak.rows, leak.evaluation_rows, leak.anywhere) for leak in found] == [(2, 2, 2)] * 4


def test_accents_may_have_either_unicode_form() -> None:
    mood = examples.sentiment()
    train, reported = (
        [{"sentence": text, "label": 0}] for text in ("Un caf\u00e9", "un cafe\u0301.")
    )
    (leak,) = find_leakage([task_data(mood, train=train, reported=reported)])
    assert leak.rows == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 2", "3 - 2"),
        ("...", "?!"),
        ("", "."),
        ("ab", "abc"),
        ("What is 1.5 + 2?", "What is 15 + 2?"),
        ("at 1:30", "at 130"),
    ],
)
def test_different_texts_stay_different(one: str, other: str) -> None:
    mood = examples.sentiment()
    data = task_data(
        mood, train=[{"sentence": one, "label": 0}], reported=[{"sentence": other, "label": 0}]
    )
    assert find_leakage([data]) == []


_TEXT = st.text(st.sampled_from("abAB ,"), max_size=4)
_PAIRS = st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(_PAIRS, _PAIRS)
def test_order_of_the_inputs_never_matters(
    train: list[tuple[str, str]], reported: list[tuple[str, str]]
) -> None:
    def count(turn_train: bool, turn_reported: bool) -> int:
        data = task_data(
            examples.pair(),
            train=[_pair(*(reversed(p) if turn_train else p)) for p in train],
            reported=[_pair(*(reversed(p) if turn_reported else p)) for p in reported],
        )
        return sum(leak.rows for leak in find_leakage([data]))

    assert len({count(one, two) for one in (False, True) for two in (False, True)}) == 1


@settings(max_examples=25, deadline=None)
@given(_PAIRS, _PAIRS, _PAIRS)
def test_after_dropping_nothing_leaks_and_nothing_else_is_gone(
    train: list[tuple[str, str]],
    reported: list[tuple[str, str]],
    development: list[tuple[str, str]],
) -> None:
    clean = _pair("only", "here")
    data = task_data(
        examples.pair(),
        train=[*(_pair(*p) for p in train), clean],
        reported=[_pair(*p) for p in reported],
        development=[_pair(*p) for p in development],
    )
    (cleaned,), dropped = drop_leaked([data])
    assert find_leakage([cleaned]) == []
    assert len(cleaned.train) + dropped.get("same", 0) == len(data.train)
    assert len(cleaned.reported) == len(data.reported)
    evaluated = {
        key for rows in (data.reported, data.development) for key in input_keys(rows, data.task)
    }
    kept = [key for key in input_keys(data.train, data.task) if key not in evaluated]
    assert list(input_keys(cleaned.train, data.task)) == kept


def test_dropping_every_train_row_is_refused() -> None:
    data = task_data(examples.pair(), train=[_pair("a", "b")], reported=[_pair("b", "a")])
    with pytest.raises(DataError, match="all 1 train rows"):
        drop_leaked([data])


def test_a_text_in_other_company_is_told_and_not_dropped() -> None:
    long, short = "the city councilmen refused the demonstrators", "they did"
    trained = task_data(
        examples.pair(), train=[_pair(long, "who?"), _pair("a", "b"), _pair(short, "x")]
    )
    close = task_data(
        examples.score(),
        train=[_scored("u", "v")],
        reported=[
            _scored("what?", f"{long.upper()}."),  # in the other place, spelled otherwise
            _scored(long, long),  # both inputs are one text: one row
            _scored("who?", long),  # a whole row
            _scored(short, "y"),  # shorter than what says anything
            _scored("b", "a"),
        ],
    )
    for find in (find_leakage, find_shared_texts):
        (leak,) = find([trained, close])
        assert (leak.evaluation, leak.split, leak.train) == ("closeness", "reported", "same")
        assert (leak.rows, leak.evaluation_rows) == (2, 5)
    cleaned, dropped = drop_leaked([trained, close])
    assert dropped == {"same": 2}
    assert find_leakage(cleaned) == []


_EACH = st.lists(st.tuples(_TEXT, _TEXT), max_size=6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(_EACH, _EACH, _EACH), min_size=1, max_size=3))
def test_counts_equal_comparing_every_row_with_every_row(tasks: list[tuple[Any, ...]]) -> None:
    data = [
        task_data(
            examples.pair(name=f"t{number}"),
            *([_pair(*pair) for pair in pairs] for pairs in splits),
        )
        for number, splits in enumerate(tasks)
    ]

    def slow(one: int, split: int, other: int) -> int:
        trained = [_plain(pair) for pair in tasks[other][0]]
        return sum(_plain(pair) in trained for pair in tasks[one][split])

    wanted = [
        (f"t{one}", name, f"t{other}", count)
        for one in range(len(data))
        for split, name in ((1, "reported"), (2, "development"))
        for other in range(len(data))
        if (count := slow(one, split, other))
    ]
    found = find_leakage(data)
    assert [(k.evaluation, k.split, k.train, k.rows) for k in found] == wanted


def _plain(pair: tuple[str, str]) -> list[str]:
    folded = [text.casefold() for text in pair]
    return sorted(
        "".join(text.replace(",", "").split()) or "".join(text.split()) for text in folded
    )


@pytest.mark.skipif("PEML_DATA" not in os.environ, reason="PEML_DATA names no benchmark folder")
def test_the_known_overlap_of_mrpc_and_stsb_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path))
    chosen = TasksSettings(suite="glue", source=str(Path(os.environ["PEML_DATA"]) / "glue"))
    mrpc, stsb = (
        load_task_data(load_suite("glue").task(name), chosen, 0) for name in ("mrpc", "stsb")
    )
    for trained, reported, expected in ((mrpc, stsb, 66), (stsb, mrpc, 45)):
        whole = (trained.train, trained.development)
        keys = {key for rows in whole for key in input_keys(rows, trained.task)}
        found = sum(key in keys for key in input_keys(reported.reported, reported.task))
        assert found == expected


@pytest.mark.skipif("PEML_DATA" not in os.environ, reason="PEML_DATA names no benchmark folder")
def test_known_overlaps_between_suites_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path))
    data = []
    for suite, names in (("glue", ("wnli", "rte", "mrpc", "stsb")), ("superglue", ("wsc", "rte"))):
        folder = Path(os.environ["PEML_DATA"]) / suite
        for name in names:
            task = load_suite(suite).task(name)
            train, reported, origin = load_source(task, str(folder))
            named = task.model_copy(update={"name": f"{suite}-{name}"})
            data.append(TaskData(named, train, train.select([]), reported, origin))
    leaks, texts = (
        {(leak.evaluation, leak.train): leak.rows for leak in find(data)}
        for find in (find_leakage, find_shared_texts)
    )
    assert leaks == {
        ("glue-mrpc", "glue-mrpc"): 2,
        ("glue-mrpc", "glue-stsb"): 45,
        ("glue-stsb", "glue-mrpc"): 66,
    }
    assert texts["glue-wnli", "glue-wnli"] == 65
    assert texts["glue-wnli", "superglue-wsc"] == 47  # 44 different sentences
    assert texts["superglue-wsc", "glue-wnli"] == 76  # 30 different texts
    cleaned, dropped = drop_leaked(data)
    assert set(dropped) == {"glue-mrpc", "glue-stsb"}
    assert find_leakage(cleaned) == []
