"""How labels are read: names, indices, booleans and digits."""

from __future__ import annotations

from typing import Any

import pytest

from peml.errors import DataError
from peml.tasks import TaskRenderer
from peml.tasks.classes import read_class, settle_class
from tests.tasks import examples


@pytest.mark.parametrize("label", [0, "0", "bad"])
def test_accepted_class_labels(label: object) -> None:
    row = {"sentence": "x", "label": label}
    assert TaskRenderer(examples.sentiment()).render(row, 0).label == 0


_BOOLEANS = [
    (["yes", "no"], [0, 1]),
    (["positive", "negative"], [0, 1]),
    (["TRUE", "FALSE"], [0, 1]),
    (["1", "0"], [0, 1]),
    (["No", "Yes"], [1, 0]),
    (["spam", "ham"], [None, None]),
    (["entailment", "not_entailment"], [None, None]),
    (["true", "neither"], [0, None]),
    (["1", "2"], [None, None]),  # 1 may be one of two numbers, and true is none
    (["yes", "perhaps"], [None, None]),
]


@pytest.mark.parametrize(("labels", "wanted"), _BOOLEANS)
def test_true_is_the_label_that_says_so(labels: list[str], wanted: list[int | None]) -> None:
    renderer = TaskRenderer(examples.sentiment(labels=labels))
    indices = {"inputs": ["sentence"], "label": "label", "kinds": {"label": "number"}}
    by_order = examples.sentiment(labels=labels, columns=indices)
    assert [read_class(by_order, value) for value in (False, "TRUE")] == [(None, 0), (None, 1)]
    for text, label in zip(("True", "False"), wanted, strict=True):
        for value in (text, text.lower(), text.upper(), text == "True"):
            if label is None:
                with pytest.raises(DataError, match=r"is not a label.*columns.kinds: {label: numb"):
                    renderer.render({"sentence": "x", "label": value}, 0)
            else:
                assert renderer.render({"sentence": "x", "label": value}, 0).label == label


def test_a_label_that_is_a_digit_names_its_class_not_its_index() -> None:
    task = examples.sentiment(labels=["1", "0"])
    assert TaskRenderer(task).render({"sentence": "x", "label": "0"}, 0).label == 1


@pytest.mark.parametrize("label", [" 1", "1 ", " 1.0", 1.0])
def test_a_digit_is_a_name_however_it_is_written(label: object) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "kinds": {"label": "text"}}
    task = examples.sentiment(labels=["1", "0"], columns=columns)
    assert TaskRenderer(task).render({"sentence": "x", "label": label}, 0).label == 0
    named = examples.sentiment(labels=["3.0", "1.0"], columns=columns)
    assert TaskRenderer(named).render({"sentence": "x", "label": label}, 0).label == 1
    both = examples.sentiment(labels=["1.0", "1"], columns=columns)  # the spelling of whole numbers
    assert TaskRenderer(both).render({"sentence": "x", "label": " 1"}, 0).label == 1


def test_names_come_before_indices_and_what_could_be_either_is_refused() -> None:
    digits = TaskRenderer(examples.sentiment(labels=["1", "0"]))
    with pytest.raises(DataError) as caught:
        digits.render({"sentence": "x", "label": 1}, 0)
    said = "1 is ambiguous: it is the name of label 0 and the index of label 1 '0'"
    assert said in caught.value.problem
    assert "columns.kinds: {label: text}" in caught.value.problem
    plain = TaskRenderer(examples.sentiment(labels=["no", "yes"]))
    for value, label in (("1", 1), ("true", 1), ("False", 0)):
        assert plain.render({"sentence": "x", "label": value}, 0).label == label


@pytest.mark.parametrize(("kind", "label"), [("text", 0), ("number", 1)])
def test_a_definition_says_what_a_digit_means(kind: str, label: int) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "kinds": {"label": kind}}
    task = examples.sentiment(labels=["1", "0"], columns=columns)
    for value in (1, "1"):
        assert settle_class(task, value, read_class(task, value)) == label
    columns = {"inputs": ["start"], "choices": "options", "label": "answer"}
    columns["kinds"] = {"answer": kind}
    row = {"start": "Go", "options": ["1", "2"], "answer": 1}
    assert TaskRenderer(examples.choice(columns=columns)).render(row, 0).label == label


_COLUMNS = {"inputs": ["sentence"], "label": "label", "extra": ["n"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {**_COLUMNS, "kinds": {"sentence": "text"}}}, "is always a text"),
        ({"columns": {**_COLUMNS, "kinds": {"lab": "number"}}}, "no field 'lab'. Did you mean"),
        (
            {"columns": {**_COLUMNS, "aliases": {"labe": "mood"}}},
            "aliases: there is no field 'labe'",
        ),
        ({"columns": {**_COLUMNS, "aliases": {"n": "label"}}}, "'n' would show the label"),
        ({"columns": {**_COLUMNS, "extra": ["_source_row"]}}, "'_source_row' is the name of"),
        ({"chat": {"system": "About {{ n }}."}}, "'{{ n }}' would be a text, the same in every"),
        ({"source": {"path": "x", "revision": "v2"}}, "revision: only a data set of the hub has"),
        ({"columns": {**_COLUMNS, "kinds": {"label": "boolean"}}}, "is a text or a number"),
        ({"labels": ["caf\u00e9", "cafe\u0301"]}, r"U\+00E9.*are the same letters"),
    ],
)
def test_a_definition_that_leaves_labels_unclear_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        examples.sentiment(**change)


def test_the_text_of_an_option_comes_before_its_index() -> None:
    row = {"start": "Go", "options": ["2", "0", "1"]}
    assert TaskRenderer(examples.choice()).render(row | {"answer": "1"}, 0).label == 2
    letters = TaskRenderer(examples.choice())
    assert letters.render(row | {"options": ["a", "b"], "answer": "1"}, 0).label == 1
    assert (
        TaskRenderer(examples.choice()).render(row | {"options": ["7", "8"], "answer": 8}, 0).label
        == 1
    )
    assert letters.render(row | {"options": ["no", "true"], "answer": True}, 0).label == 1
    with pytest.raises(DataError, match="text of option 2 and the index of option 1 '0'"):
        letters.render(row | {"answer": 1}, 0)


def test_letters_match_in_either_unicode_form_and_look_alikes_are_told_apart() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    task = examples.sentiment(labels=["bar", composed])
    assert TaskRenderer(task).render({"sentence": "x", "label": apart}, 0).label == 1
    renderer = TaskRenderer(examples.choice())
    row = {"start": "Go", "options": ["bar", apart], "answer": composed}
    assert renderer.render(row, 0).label == 1
    with pytest.raises(DataError, match=r"U\+0067 U\+043E .* is not 'good' \(U\+0067 U\+006F"):
        TaskRenderer(examples.sentiment()).render({"sentence": "x", "label": "g\u043eod"}, 0)
