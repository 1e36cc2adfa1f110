"""Numbers that are read a few steps at a time: same records, same errors, nothing broken kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from peml.errors import TrainingError
from tests.training.toy import Toy, toy

_INTERVALS: dict[str, Any] = {"evaluate_every": 8, "checkpoint_every": 5, "log_every": 6}


def late(most: int = 4) -> Toy:
    made = toy(balancing={"strategy": "uncertainty"}, **_INTERVALS)
    made.loop.readings.most = most
    return made


def test_steps_that_are_read_late_have_the_same_records() -> None:
    at_once, together = late(1), late(4)
    at_once.run(12)
    seen: list[int] = []
    together.run(12, before_step=lambda step: seen.append(len(together.recorder.steps)))
    assert together.recorder.steps == at_once.recorder.steps
    assert together.recorder.checkpoints == at_once.recorder.checkpoints == [5, 8, 10, 12]
    # After the first step, four unread, a checkpoint, a logged step, an evaluation, ...
    assert seen == [0, 1, 1, 1, 1, 5, 6, 6, 8, 8, 10, 10]


def test_a_loss_that_is_no_number_is_named_with_its_step_before_anything_is_saved() -> None:
    made = toy(**_INTERVALS)
    made.loop.readings.most = 4

    def poison(step: int) -> None:
        if step == 2:
            with torch.no_grad():
                made.model.base.heads.bias[2] = math.nan  # type: ignore[union-attr,operator]

    with pytest.raises(TrainingError, match=r"diverged at step 3: loss nan.*mood \d") as caught:
        made.run(12, before_step=poison)
    assert "closeness nan" in str(caught.value)
    assert made.recorder.checkpoints == []
    assert [record.step for record in made.recorder.steps] == [1]


def test_the_first_step_is_read_at_once() -> None:
    made = toy(explode_at=1e-6, log_every=10)
    made.loop.readings.most = 10
    with pytest.raises(TrainingError, match="before the first step"):
        made.run(12)
    assert made.loop.progress.step == 0
