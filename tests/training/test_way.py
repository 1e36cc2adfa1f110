"""The way of a batch: how many files a reader of one training step has to open."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import peml
from tests.training.toy import toy

MOST = 17
_ROOT = Path(peml.__file__).parent


def files_of_a_step() -> set[str]:
    """The files whose functions the fourth step of a LoRA calls, on the reading thread too.

    It is in mid-epoch and is not logged.
    """
    found: set[str] = set()
    made = toy(log_every=100, batches={"rows": 2})

    def traced(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and made.loop.progress.step == 3 and _ROOT in path.parents:
            found.add(str(path.relative_to(_ROOT)))

    before = sys.getprofile()
    threading.setprofile(traced)
    sys.setprofile(traced)
    try:
        made.run(6)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return found


def test_a_step_enters_few_files() -> None:
    found = files_of_a_step()
    assert "training/loop.py" in found
    assert "data/batching.py" in found
    assert len(found) <= MOST, sorted(found)
