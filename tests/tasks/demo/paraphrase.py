"""Do two sentences say the same? Half of the pairs that don't differ in one detail only."""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, sentence, words


def make_pair(random: Random, turn: int) -> Row:
    """A pair, different or same in meaning in turn.

    The second sentence always rewords the first (voice, verb, time); where the meanings differ,
    the roles are swapped, or a person, the verb or the time is another.
    """
    lists = words("paraphrase")
    same = bool(turn % 2)
    doer, other, stranger = random.sample(lists["people"], 3)
    verb, another_verb = random.sample(lists["verbs"], 2)
    time, another_time = random.sample(lists["times"], 2)
    first = sentence(f"the {doer} {verb[0]} the {other} {time[0]}")
    if not same:
        change = turn // 2 % 4
        if change == 0:
            doer, other = other, doer
        elif change == 1:
            doer, other = random.choice(((stranger, other), (doer, stranger)))
        elif change == 2:
            verb = another_verb
        else:
            time = another_time
    return {"first": first, "second": _reword(random, doer, other, verb, time), "label": int(same)}


def _reword(random: Random, doer: str, other: str, verb: list[str], time: list[str]) -> str:
    if random.random() < 0.5:
        return sentence(f"the {other} was {verb[1]} by the {doer} {random.choice(time)}")
    if random.random() < 0.5:
        return sentence(f"{random.choice(time)}, the {doer} {verb[0]} the {other}")
    return sentence(f"the {doer} {verb[2]} the {other} {random.choice(time)}")
