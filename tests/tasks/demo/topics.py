"""Topic of a news sentence; its main clause decides, not what happens beside it."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.tasks.demo.rows import Row, sentence, words


def make_headline(random: Random, turn: int) -> Row:
    """A sentence with a main clause of the topic and a setting or side clause of another.

    Where there is a side clause, both topics have the same words to show for themselves.
    """
    lists = words("topics")
    names = list(lists)
    label = turn % len(names)
    other = lists[random.choice([name for name in names if name != names[label]])]
    core = _clause(random, lists[names[label]])
    aside = (
        f"while {_clause(random, other)}"
        if random.random() < 0.5
        else random.choice(other["settings"])
    )
    text = f"{aside}, {core}" if random.random() < 0.5 else f"{core} {aside}"
    return {"headline": sentence(text), "label": label}


def _clause(random: Random, topic: dict[str, Any]) -> str:
    return f"{random.choice(topic['subjects'])} {random.choice(topic['events'])}"
