"""Which of three endings fits the beginning?"""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, words


def make_story(random: Random, turn: int) -> Row:
    """A beginning and three endings: its own, one of the same theme, one of another theme."""
    lists = words("endings")
    theme, elsewhere = random.sample(lists["themes"], 2)
    (beginning, ending), (_, related) = random.sample(theme, 2)
    _, unrelated = random.choice(elsewhere)
    label = turn % 3
    options = random.sample((related, unrelated), 2)
    options.insert(label, ending)
    return {
        "beginning": f"{beginning}, so {random.choice(lists['names'])}",
        "endings": [f"{option}." for option in options],
        "label": label,
    }
