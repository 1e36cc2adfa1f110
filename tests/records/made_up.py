"""What finished runs say, made up."""

from __future__ import annotations

from typing import Any


def results_of(
    values: dict[str, float],
    *,
    majority: float = 0.5,
    rows: int = 20,
    parameters: int = 7,
    **cost: Any,
) -> dict[str, Any]:
    """The content of a ``results.json``.

    Args:
        values: Score of each task.
        majority: Score of each task's majority baseline.
        rows: Reported rows of each task.
        parameters: Trainable parameters.
        cost: Further fields of the cost.
    """
    task = {"metric": "accuracy", "majority": majority, "rows": rows}
    mean = sum(values.values()) / len(values)
    counts = {
        "trainable_parameters": {"lora": parameters},
        "total_trainable_parameters": parameters,
    }
    return {
        "format": 1,
        "method": "lora",
        "model": "minilm",
        "seed": 0,
        "tasks": {name: task | _around(value) | {"value": value} for name, value in values.items()},
        **_around(mean),
        "mean": mean,
        "majority_mean": majority,
        "cost": {"seconds": {}} | counts | cost,
    }


def _around(value: float) -> dict[str, float]:
    return {"low": value - 0.1, "high": value + 0.1}
