"""How much do two scenes have in common? One point for each of five facts they share."""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, sentence, words


def make_scenes(random: Random, turn: int) -> Row:
    """Two scenes that share 0 to 5 facts in turn; a shared fact may be worded differently."""
    lists = words("similarity")
    score = turn % (len(lists) + 1)
    shared = set(random.sample(list(lists), score))
    first, second = [], []
    for kind, facts in lists.items():
        fact, other = random.sample(facts, 2)
        first.append(random.choice(fact))
        second.append(random.choice(fact if kind in shared else other))
    return {
        "first": sentence(" ".join(first)),
        "second": sentence(" ".join(second)),
        "score": float(score),
    }
