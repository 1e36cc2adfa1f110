"""What made the demo's rows (`src/peml/tasks/demo`): small tasks, the same on every machine.

Where it is changed, `python -m tests.tasks.demo` writes the rows anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from tests.tasks.demo.clock import make_time
from tests.tasks.demo.endings import make_story
from tests.tasks.demo.entailment import make_inference
from tests.tasks.demo.grammar import make_sentence
from tests.tasks.demo.paraphrase import make_pair
from tests.tasks.demo.reviews import make_review
from tests.tasks.demo.rows import Maker, Row, draw_rows
from tests.tasks.demo.similarity import make_scenes
from tests.tasks.demo.topics import make_headline

__all__ = ["TASKS", "generate_demo"]

_SEED = 2605


class _Plan(NamedTuple):
    make: Maker
    inputs: tuple[str, ...]
    train: int
    reported: int


TASKS: Mapping[str, _Plan] = MappingProxyType(
    {
        "reviews": _Plan(make_review, ("review",), 300, 120),
        "topics": _Plan(make_headline, ("headline",), 240, 120),
        "grammar": _Plan(make_sentence, ("sentence",), 400, 120),
        "paraphrase": _Plan(make_pair, ("first", "second"), 400, 120),
        "entailment": _Plan(make_inference, ("premise", "hypothesis"), 360, 120),
        "similarity": _Plan(make_scenes, ("first", "second"), 360, 120),
        "endings": _Plan(make_story, ("beginning",), 240, 120),
        "clock": _Plan(make_time, ("sentence",), 320, 120),
    }
)
"""What makes each task's rows, the columns that tell them apart, and how many there are."""


def generate_demo(task: str) -> dict[str, list[Row]]:
    """Returns a demo task's splits, ``train`` and ``validation``; no row is in both.

    Raises:
        KeyError: There is no such demo task.
    """
    plan = TASKS[task]
    rows = draw_rows(plan.make, plan.inputs, task, _SEED, plan.reported + plan.train)
    return {"validation": rows[: plan.reported], "train": rows[plan.reported :]}
