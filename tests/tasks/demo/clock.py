"""Write the time that a sentence tells in words as digits."""

from __future__ import annotations

from random import Random

from tests.tasks.demo.rows import Row, words


def make_time(random: Random, turn: int) -> Row:
    """A sentence with a time, and the time in digits; the minutes go round in turn."""
    lists = words("clock")
    minutes = (*lists["past"], *lists["to"])
    minute = minutes[turn % len(minutes)]
    hour = random.randrange(12)
    if minute in lists["past"]:
        spoken = f"{lists['past'][minute]} {lists['hours'][hour]}"
    else:
        spoken = f"{lists['to'][minute]} {lists['hours'][(hour + 1) % 12]}"
    return {
        "sentence": random.choice(lists["frames"]).format(time=spoken),
        "digits": f"{hour or 12}:{minute:02d}",
    }
