"""What a trial is judged by, from its results."""

from __future__ import annotations

import pytest

from peml.records.run import Results
from peml.tuning.objectives import OBJECTIVES, ObjectiveName
from tests.records.made_up import results_of

RESULTS = Results.model_validate(
    results_of(
        {"mood": 0.7, "same": 0.8},
        rows=100,
        seconds={"search": 10.0, "discretise": 1.0, "train": 20.0, "evaluate": 400.0}
        | {"export": 8000.0},
        tokens={"search": 100, "train": 250},
    )
)


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
