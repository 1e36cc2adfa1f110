"""Grammatical or not: agreement across a noun in between, verb forms, number of a noun."""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, sentence, words


def make_sentence(random: Random, turn: int) -> Row:
    """A sentence, unacceptable or acceptable in turn; each kind of mistake equally often."""
    kinds = (_agreement, _verb_form, _noun_number, _word_order)
    acceptable = bool(turn % 2)
    make = kinds[turn // 2 % len(kinds)]
    return {"sentence": sentence(make(random, acceptable)), "label": int(acceptable)}


def _agreement(random: Random, acceptable: bool) -> str:
    lists = words("grammar")
    number = random.randrange(2)
    subject = random.choice(lists["people"])[number]
    attractor = random.choice(lists["attractors"])[random.randrange(2)]
    verb = random.choice(lists["present"])[number if acceptable else 1 - number]
    return f"{subject} {attractor} {verb}"


def _verb_form(random: Random, acceptable: bool) -> str:
    lists = words("grammar")
    number = random.randrange(2)
    person = random.choice(lists["people"])[number]
    base, past, participle = random.choice(lists["verbs"])
    thing = random.choice(lists["things"])[random.randrange(2)]
    auxiliary, right, wrong = random.choice(
        [
            ("did not", base, past),
            ("has" if number == 0 else "have", participle, base),
            ("will", base, participle),
        ]
    )
    when = f" {random.choice(lists['times'])}" if auxiliary == "did not" else ""
    return f"{person} {auxiliary} {right if acceptable else wrong} the {thing}{when}"


def _noun_number(random: Random, acceptable: bool) -> str:
    lists = words("grammar")
    person = random.choice(random.choice(lists["people"]))
    _, past, _ = random.choice(lists["verbs"])
    number = random.randrange(2)
    determiner = random.choice((("this", "each"), ("these", "both"))[number])
    thing = random.choice(lists["things"])[number if acceptable else 1 - number]
    return f"{person} {past} {determiner} {thing} {random.choice(lists['times'])}"


def _word_order(random: Random, acceptable: bool) -> str:
    lists = words("grammar")
    person = random.choice(random.choice(lists["people"]))
    _, past, _ = random.choice(lists["verbs"])
    thing = f"the {random.choice(random.choice(lists['things']))}"
    when = random.choice(lists["times"])
    if acceptable:
        return random.choice((f"{person} {past} {thing} {when}", f"{when} {person} {past} {thing}"))
    return random.choice((f"{person} {thing} {past} {when}", f"{past} {person} {thing} {when}"))
