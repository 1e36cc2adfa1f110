"""The objectives of a study."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from peml.records.run import Results

ObjectiveName = Literal["mean", "parameters", "latency", "seconds", "tokens"]


@dataclass(frozen=True)
class Objective:
    """A number by which finished trials are compared.

    `direction` is spelled as Optuna does; `title` is its name in tables and on axes, with the unit;
    `value` computes it from a run's results.
    """

    direction: Literal["maximize", "minimize"]
    title: str
    value: Callable[[Results], float]


def _seconds(results: Results) -> float:
    spent = results.cost.seconds
    return sum(value for phase, value in spent.items() if phase not in ("evaluate", "export"))


def _latency(results: Results) -> float:
    """Milliseconds per development row, in the trial's own evaluation."""
    rows = sum(task.rows for task in results.tasks.values())
    return 1000.0 * results.cost.seconds["evaluate"] / rows


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "mean": Objective("maximize", "development mean", lambda results: results.mean),
    "parameters": Objective(
        "minimize",
        "trainable parameters",
        lambda results: float(results.cost.total_trainable_parameters),
    ),
    "latency": Objective("minimize", "milliseconds per row", _latency),
    "seconds": Objective("minimize", "seconds of training", _seconds),
    "tokens": Objective(
        "minimize",
        "training tokens",
        lambda results: float(sum(results.cost.tokens.values())),
    ),
}
