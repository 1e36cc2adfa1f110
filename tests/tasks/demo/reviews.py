"""Sentiment of a review; in most rows praise and blame meet, and one side decides."""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, sentence, words

_SHARE_OF_CONTRASTS = 0.6


def make_review(random: Random, turn: int) -> Row:
    """A review, positive or negative in turn.

    In a contrast ("although the room was small, we slept well") both sides are there, so the
    words alone don't tell: the main clause does.
    """
    lists = words("reviews")
    positive = bool(turn % 2)
    place = random.choice(lists["places"])
    good, bad = random.choice(place["good"]), random.choice(place["bad"])
    high, low = (good, bad) if positive else (bad, good)
    if random.random() < _SHARE_OF_CONTRASTS:
        text = random.choice(lists["contrasts"]).format(high=high, low=low)
    else:
        side = place["good" if positive else "bad"]
        second = random.choice([clause for clause in side if clause != high])
        text = f"{random.choice(lists['openers'])}{high} and {second}"
    return {"review": sentence(text), "label": int(positive)}
