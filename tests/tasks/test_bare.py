"""Prompts of nothing but a row's fields."""

from __future__ import annotations

import pytest

from peml.data.settings import TasksSettings, select_tasks
from peml.errors import TaskError
from peml.tasks import TaskRenderer, load_suite, with_bare_template
from peml.tasks.bare import _words
from tests.tasks.benchmark_rows import ROWS
from tests.tasks.examples import sentiment

GLUE_AND_COMMONSENSE = [
    (suite, task.name) for suite in ("glue", "commonsense") for task in load_suite(suite).tasks
]


@pytest.mark.parametrize(("suite", "name"), GLUE_AND_COMMONSENSE)
def test_suites_have_bare_prompts(suite: str, name: str) -> None:
    task = load_suite(suite).task(name)
    (bare,) = select_tasks(TasksSettings(suite=suite, include=(name,), bare=True))
    row = ROWS[suite][name][0]
    full, short = (TaskRenderer(each).render(row, 0) for each in (task, bare))
    assert not _words(bare.template)
    assert (short.options, short.label) == (full.options, full.label)
    if not _words(task.template):
        assert short.prompt == full.prompt
        return
    assert len(short.prompt) < len(full.prompt)
    assert short.prompt.endswith("\n")
    for line in short.prompt.splitlines():
        assert line.rstrip("?") in full.prompt


def test_an_answer_follows_on_its_own_line() -> None:
    bare = with_bare_template(sentiment())
    assert TaskRenderer(bare).render_solved({"sentence": "so fun", "label": 1}, 0) == "so fun\ngood"


def test_what_a_template_shows_beyond_the_fields_is_not_lost() -> None:
    task = load_suite("mmlu").tasks[0]
    with pytest.raises(TaskError, match="its segments have words of their own"):
        with_bare_template(task)
    with pytest.raises(TaskError, match="would leave note, options out of its prompts"):
        with_bare_template(
            sentiment(
                columns={"inputs": ["sentence"], "label": "label", "extra": ["note"]},
                template="{{ sentence }} (note: {{ note }}): {{ options | join(' or ') }}?",
            )
        )
    (same,) = select_tasks(TasksSettings(suite="mmlu", include=(task.name,)))
    assert same.template == task.template
