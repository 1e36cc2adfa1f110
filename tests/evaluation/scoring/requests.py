"""Requests for the tests: questions with options behind the same examples."""

from __future__ import annotations

import random

from peml.evaluation.scoring.requests import Request


def few_shot(
    *, examples: int = 20, questions: int = 6, tasks: int = 1, option: int = 4, seed: int = 0
) -> list[Request]:
    """Questions with four options of 1 to ``option`` tokens, behind the same examples.

    The last question of each task shares its examples only in part, and one option is asked twice.
    """
    draw = random.Random(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 300) for _ in range(count))

    shots = some(examples)
    requests = []
    for number in range(questions):
        first = shots if number < questions - tasks else (*shots[:5], *some(examples // 2))
        context = (*first, *some(draw.randrange(2, 9)))
        for _ in range(4):
            answer = some(draw.randrange(1, option + 1))
            requests.append(Request(context, answer, number % tasks))
    return [*requests, requests[1]]
