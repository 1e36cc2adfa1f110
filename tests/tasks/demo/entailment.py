"""Does the second sentence follow from the first, in a small world of purchases?"""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, sentence, words

_KINDS = ("color", "city", "day", "payment")


def make_inference(random: Random, turn: int) -> Row:
    """A premise and a hypothesis: entailment, neutral or contradiction in turn.

    The premise leaves one kind of fact out. The hypothesis states one fact: told and right,
    not told, or told and wrong. So neither sentence alone gives the answer away.
    """
    lists = words("entailment")
    label = turn % 3
    person = random.choice(lists["people"])
    item, family = random.choice(lists["items"])
    facts = {
        "color": random.choice(lists["colors"]),
        "city": random.choice(lists["cities"]),
        "day": random.choice(lists["days"]),
        "payment": random.choice(lists["payments"]),
    }
    left_out = random.choice(_KINDS)
    kind = left_out if label == 1 else random.choice([k for k in _KINDS if k != left_out])
    value = facts[kind]
    if label == 2:
        plural = {"color": "colors", "city": "cities", "day": "days", "payment": "payments"}[kind]
        value = random.choice([other for other in lists[plural] if other != value])
    return {
        "premise": _premise(person, item, {k: v for k, v in facts.items() if k != left_out}),
        "hypothesis": _hypothesis(random, person, random.choice((item, family)), kind, value),
        "label": label,
    }


def _premise(person: str, item: str, facts: dict[str, str | list[str]]) -> str:
    text = (
        f"{person} bought a {facts['color']} {item}"
        if "color" in facts
        else (f"{person} bought a {item}")
    )
    if "city" in facts:
        text += f" in {facts['city'][0]}"
    if "day" in facts:
        text += f" on {facts['day']}"
    if "payment" in facts:
        text += f" and paid {facts['payment']}"
    return sentence(text)


def _hypothesis(random: Random, person: str, item: str, kind: str, value: str | list[str]) -> str:
    if kind == "color":
        return sentence(f"the {item} is {value}")
    if kind == "city":
        return sentence(f"{person} was shopping in {random.choice(value)}")
    if kind == "day":
        return sentence(f"{person} got the {item} on {value}")
    return sentence(f"{person} paid for the {item} {value}")
