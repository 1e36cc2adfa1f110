"""Header, shots and targets: what stands around a row's own prompt."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peml.errors import DataError, TaskError
from peml.tasks import Shots, Task, TaskRenderer
from tests.tasks.examples import choice, generation, pair, score, sentiment

ROW = {"sentence": "the fox ran", "label": 1}


def test_a_prompt_is_header_shots_and_row() -> None:
    task = sentiment(header="About {{ sentence[:7] }}:", shots={"examples": ["x It is bad", "y"]})
    example = TaskRenderer(task).render(ROW, 0)
    assert example.prompt == "About the fox:\n\nx It is bad\n\ny\n\nthe fox ran It is"
    assert example.segments == ("the fox ran",)
    plain = TaskRenderer(sentiment()).render(ROW, 0)
    assert plain.prompt == "the fox ran It is"


@pytest.mark.parametrize(
    ("task", "row", "solved"),
    [
        (sentiment(label_words=["poor", "fine"]), ROW, "the fox ran It is fine"),
        (pair(), {"first": "a", "second": "b", "label": "bad"}, "a / b bad"),
        (score(), {"first": "a", "second": "b", "score": 2.6}, "a / b 2.5"),
        (choice(), {"start": "go", "options": ["on", "off"], "answer": 1}, "go [on|off] off"),
        (
            choice(option="{{ index + 1 }}"),
            {"start": "go", "options": ["on", "off"], "answer": 1},
            "go [1|2] 2",
        ),
        (generation(template="{{ text }}:\n"), {"text": "a", "target": "b"}, "a:\nb"),
    ],
)
def test_a_solved_row_ends_in_the_answer_a_model_is_trained_on(
    task: Task, row: dict[str, Any], solved: str
) -> None:
    task = task.model_copy(update={"header": "No.", "shots": Shots(examples=("not this",))})
    assert TaskRenderer(task).render_solved(row, 0) == solved


def test_a_target_names_the_right_one_of_the_choices() -> None:
    task = generation(
        columns={"inputs": ["text"], "choices": ["a", "b"], "keys": ["1", "2"], "label": "key"},
        template="{{ text }} {{ options | join(' or ') }}?",
        target="number {{ index + 1 }}, as {{ label }}: {{ options[index] }}",
    )
    row = {"text": "Which", "a": "this", "b": "that", "key": "2"}
    example = TaskRenderer(task).render(row, 0)
    assert example.prompt == "Which this or that?"
    assert example.label == "number 2, as 2: that"
    assert example.options == ()
    with pytest.raises(DataError, match=r"'3' is not the key"):
        TaskRenderer(task).render(row | {"key": "3"}, 4)
    assert TaskRenderer(task).render({**row, "key": None}, 0, labelled=False).label == ""


def test_a_target_spells_a_label_of_any_kind() -> None:
    task = generation(target="{{ {'true': 'yes', 'false': 'no'}[label | string | lower] }}")
    renderer = TaskRenderer(task)
    labels = [True, "false", "True"]
    found = [renderer.render({"text": "a", "target": label}, 0).label for label in labels]
    assert found == ["yes", "no", "yes"]
    with pytest.raises(DataError, match=r"row 7 .*field 'target'"):
        renderer.render({"text": "a", "target": "perhaps"}, 7)
    with pytest.raises(DataError, match="there is no label"):
        renderer.render({"text": "a", "target": None}, 7)


def test_prompts_still_don_t_see_the_label() -> None:
    for field in ("template", "header"):
        with pytest.raises(TaskError, match=f"{field}: the template shows the label column"):
            TaskRenderer(sentiment(**{field: "{{ label }}"}))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (sentiment, {"stop": ["x"]}, "stop: a classification task generates nothing"),
        (choice, {"max_new_tokens": 3}, "max_new_tokens: a multiple-choice task generates"),
        (score, {"target": "x"}, "target: a regression task generates nothing"),
        (score, {"normalisation": "bytes"}, "normalisation: a regression task compares"),
        (generation, {"normalisation": "bytes"}, "normalisation: a generation task compares"),
        (generation, {"stop": [""]}, "at least 1 character"),
        (sentiment, {"shots": {"count": 2, "examples": ["x"]}}, "count or examples, not both"),
        (
            generation,
            {"columns": {"inputs": ["text"], "choices": "options", "label": "key"}},
            "target: needed to spell",
        ),
        (
            generation,
            {"columns": {"inputs": ["text"], "keys": ["1", "2"], "label": "key"}},
            "columns.keys: needs columns.choices",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**changes)
