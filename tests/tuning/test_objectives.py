"""What a trial is judged by, from its results."""

from __future__ import annotations

from typing import Any

import pytest

from peml.tuning.objectives import OBJECTIVES, ObjectiveName

RESULTS: dict[str, Any] = {
    "mean": 0.75,
    "tasks": {"mood": {"rows": 50}, "same": {"rows": 150}},
    "cost": {
        "seconds": {"search": 10.0, "discretise": 1.0, "train": 20.0, "evaluate": 400.0}
        | {"export": 8000.0},
        "tokens": {"search": 100, "train": 250},
        "total_trainable_parameters": 7,
    },
}


@pytest.mark.parametrize(
    ("name", "value", "direction"),
    [
        ("mean", 0.75, "maximize"),
        ("seconds", 31.0, "minimize"),  # of training: neither evaluation nor export
        ("latency", 2000.0, "minimize"),
        ("tokens", 350.0, "minimize"),
        ("parameters", 7.0, "minimize"),
    ],
)
def test_objectives(name: ObjectiveName, value: float, direction: str) -> None:
    assert OBJECTIVES[name].value(RESULTS) == value
    assert OBJECTIVES[name].direction == direction
